"""The strategies that the planner chooses from, fastest first, and what each one costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmcausal.config import MemorySection

LEAN_TOKEN_CHUNK = 1024
LEAN_LABEL_CHUNK = 128
NAIVE = "naive"
"""Not a strategy to train with: the usual recipe, predicted for comparison."""

_KEEP: dict[str, Any] = {
    "activations": "keep",
    "embeddings": "device",
    "head": "device",
    "lora_dtype": "fp32",
    "members": "tree",
    "token_chunk": 0,
}
_RECOMPUTE = {**_KEEP, "activations": "recompute"}
_HOST_EMBEDDINGS = {**_RECOMPUTE, "embeddings": "host"}
_OFFLOAD = {**_HOST_EMBEDDINGS, "activations": "offload"}
_STREAMED_HEAD = {**_OFFLOAD, "head": "host"}
_LEAN = {
    **_STREAMED_HEAD,
    "lora_dtype": "compute",
    "token_chunk": LEAN_TOKEN_CHUNK,
    "label_chunk": LEAN_LABEL_CHUNK,
}
_ONE_BY_ONE = {**_LEAN, "members": "one_by_one"}

STRATEGIES: dict[str, dict[str, Any]] = {
    "keep": _KEEP,
    "recompute": _RECOMPUTE,
    "host_embeddings": _HOST_EMBEDDINGS,
    "offload": _OFFLOAD,
    "streamed_head": _STREAMED_HEAD,
    "lean": _LEAN,
    "one_by_one": _ONE_BY_ONE,
}
"""`[memory]` switches of each strategy, from fastest to leanest; each adds to the one before."""

COSTS: dict[str, str] = {
    "keep": "nothing: the reference for time",
    "recompute": "every layer's forward pass twice",
    "host_embeddings": "the looked-up embeddings cross from host memory once per micro-batch",
    "offload": "each layer's input crosses to host memory and back, during the computation",
    "streamed_head": "the whole output head crosses from host memory in each micro-batch",
    "lean": "adapters rounded to the compute dtype; more and smaller kernels",
    "one_by_one": "no shared prefixes, and a second forward pass of all members but one",
}
"""What each strategy adds to the cost of the one before, in words; `memory.flops` counts it."""

_LEANNESS: dict[str, tuple[Any, ...]] = {
    "activations": ("keep", "recompute", "offload"),
    "embeddings": ("device", "host"),
    "head": ("device", "host"),
    "lora_dtype": ("fp32", "compute"),
    "members": ("tree", "separate", "one_by_one"),
}
_CHUNKS = ("token_chunk", "label_chunk", "vocabulary_chunk")
_SHARDS = "shards"
SWITCHES = (*_LEANNESS, *_CHUNKS, _SHARDS)
"""Settings of `[memory]` that decide how a step is run."""


@dataclass(frozen=True)
class Candidate:
    """Switches that the planner may choose.

    Attributes:
        name: Of the strategy that they came from; says so where the user's own switches differ.
        strategy: Name in `STRATEGIES`, or `custom` where the user's own switches differ.
        section: The `[memory]` settings with the switches in place.
    """

    name: str
    strategy: str
    section: MemorySection

    @property
    def switches(self) -> dict[str, Any]:
        """The settings that decide how a step is run."""
        return switches_of(self.section)


def switches_of(section: MemorySection) -> dict[str, Any]:
    """Returns the settings of `[memory]` that decide how a step is run."""
    return {name: getattr(section, name) for name in SWITCHES}


def candidates(section: MemorySection, precision: str = "auto") -> list[Candidate]:
    """Lists what may be chosen, fastest first.

    Switches that the user set by hand are a starting point: none of them is made less lean.
    Strategies that become equal by that are listed once.

    Args:
        section: The settings.
        precision: `model.precision`; with fp16 adapters stay fp32, or their gradients could not be
            unscaled.
    """
    by_hand = {
        name: getattr(section, name) for name in SWITCHES if name in section.model_fields_set
    }
    found: list[Candidate] = []
    for name, wanted in STRATEGIES.items():
        if section.shards > 1 and wanted["members"] != "tree":
            continue  # as many passes as members, which differ from process to process
        if precision == "fp16":
            wanted = {**wanted, "lora_dtype": "fp32"}  # noqa: PLW2901
        merged = {**wanted}
        for switch, value in by_hand.items():
            merged[switch] = _leaner(switch, value, wanted.get(switch, value))
        differs = any(merged[switch] != value for switch, value in wanted.items())
        candidate = Candidate(
            f"{name} with your switches" if differs else name,
            "custom" if differs else name,
            section.model_copy(update=merged),
        )
        if found and found[-1].switches == candidate.switches:
            found.pop()
        found.append(candidate)
    return found


def _leaner(switch: str, one: Any, other: Any) -> Any:
    if switch in _CHUNKS:  # 0 is all at one time
        return min(one, other, key=lambda chunk: chunk or float("inf"))
    if switch == _SHARDS:  # decided by how many cards there are
        return one
    order = _LEANNESS[switch]
    return max(one, other, key=order.index)


def leanest(section: MemorySection) -> Candidate:
    """Returns the candidate of least device memory."""
    return candidates(section)[-1]
