"""What a training step will take of the device's and of the host's memory, in numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

COMPONENTS = (
    "base_model",
    "adapters",
    "optimizer",
    "gradients",
    "activations",
    "logits",
    "dequantization",
    "misc",
)
"""Rows of the table, in order; the CUDA context comes on top (`context_bytes`)."""


@dataclass(frozen=True)
class Workload:
    """The longest micro-batch that a step must hold.

    Attributes:
        member_tokens: Tokens of each member, prompt and response together.
        shared_tokens: Tokens of the prefix that all members of a triplet share.
        response_tokens: Scored tokens of each member that is scored.
        triplets: Triplets in the micro-batch.
    """

    member_tokens: int
    shared_tokens: int = 0
    response_tokens: int = 256
    triplets: int = 1


@dataclass(frozen=True)
class HeldTensors:
    """Tensors of one kind that are alive at the peak.

    Attributes:
        component: One of `COMPONENTS`.
        what: What made them: a parameter's role or an operation.
        count: How many.
        bytes: Of all of them.
    """

    component: str
    what: str
    count: int
    bytes: int


@dataclass(frozen=True)
class Moment:
    """A point of the step's timeline.

    Attributes:
        phase: `weights`, `forward`, `loss`, `backward` or `optimizer`.
        allocated_bytes: Alive then, by component (all of `COMPONENTS`).
    """

    phase: str
    allocated_bytes: dict[str, int]


@dataclass(frozen=True)
class Prediction:
    """Outcome of a symbolic run.

    Attributes:
        architecture: Model, as named by the user.
        device: `cuda` (simulated) or `cpu`.
        strategy: Name in `memory.strategies`, or `custom`.
        switches: The `[memory]` settings that it stands for.
        workload: What the step computes.
        components: Bytes at the peak, by component (all of `COMPONENTS`); they add up to
            `allocated_bytes`.
        allocated_bytes: Peak of what tensors hold, states of the optimizer included.
        reserved_bytes: Peak that the caching allocator takes from the device.
        reserved_expandable_bytes: The same with expandable segments.
        context_bytes: Stated constant for the CUDA context and library handles; 0 on a CPU.
        host_bytes: Peak on the host beside the process itself: host embeddings and head,
            offloaded activations. 0 on a CPU device, where all is in `allocated_bytes`.
        peak_phase: Phase of the peak, as in `Moment`.
        peak_tensors: What holds the peak, largest first.
        timeline: At most a few hundred moments, in order, the peak among them.
        extrapolated: Whether layers were extrapolated from a shallower run.
        seconds: What the prediction took.
    """

    architecture: str
    device: str
    strategy: str
    switches: dict[str, Any]
    workload: Workload
    components: dict[str, int]
    allocated_bytes: int
    reserved_bytes: int
    reserved_expandable_bytes: int
    context_bytes: int
    host_bytes: int
    peak_phase: str
    peak_tensors: tuple[HeldTensors, ...]
    timeline: tuple[Moment, ...]
    extrapolated: bool
    seconds: float

    def total_bytes(self, *, expandable: bool) -> int:
        """Returns what the device must give: reserved by the allocator, plus the context."""
        reserved = self.reserved_expandable_bytes if expandable else self.reserved_bytes
        return reserved + self.context_bytes
