"""What a check is told: the profile, the machine, and what the memory model predicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llmcausal.config import RunConfig
from llmcausal.diagnostics.machine import Machine


@dataclass(frozen=True)
class StrategyNeed:
    """What a profile is predicted to take under one memory strategy.

    Attributes:
        name: Of the strategy.
        needed_bytes: On the GPU, the CUDA context included.
        host_bytes: On the host beside the program itself.
    """

    name: str
    needed_bytes: int
    host_bytes: int


@dataclass(frozen=True)
class ProfileNeed:
    """What a shipped profile is predicted to take of a GPU, for the longest triplets it allows.

    Attributes:
        profile: Its name.
        model: Its model.
        tokens: Of each member.
        strategies: Fastest first.
    """

    profile: str
    model: str
    tokens: int
    strategies: tuple[StrategyNeed, ...]

    def first_fitting(self, free_bytes: int, host_bytes: int) -> StrategyNeed | None:
        """Returns the fastest strategy within the GPU's and the host's free memory."""
        for need in self.strategies:
            if need.needed_bytes <= free_bytes and need.host_bytes <= host_bytes:
                return need
        return None


@dataclass(frozen=True)
class ModelSize:
    """What is known of a model without its weights.

    Attributes:
        parameters: Numbers in it.
        checkpoint_bytes: What one checkpoint of the profile takes on disk.
    """

    parameters: int
    checkpoint_bytes: int


@dataclass(frozen=True)
class Facts:
    """Everything that checks look at besides files.

    Attributes:
        config: The profile.
        machine: The machine.
        shipped: Predictions for the shipped profiles.
        own: The one of them that says what this profile takes, if one does.
        size: Tells the model's size; None where that needs a network.
    """

    config: RunConfig
    machine: Machine
    shipped: tuple[ProfileNeed, ...] = ()
    own: ProfileNeed | None = None
    size: Callable[[], ModelSize | None] = lambda: None

    @property
    def on_gpu(self) -> bool:
        """Whether training would be on the GPU."""
        return self.config.model.device != "cpu" and self.machine.gpu is not None
