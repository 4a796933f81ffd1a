"""Where a run stands: all that changes besides weights, optimizer and callbacks."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class TrainState:
    """Position and totals of a run.

    Attributes:
        step: Optimizer steps done.
        epoch: Current pass over the data, from 0.
        position: Triplets of this epoch already consumed.
        started: Whether the record of step 0 is written.
        tokens: Tokens computed so far (a shared token counts once).
        best_value: Best value of `checkpoint.best_metric`, once there is one.
        best_step: Step of the best value.
        train_seconds: Wall time spent training, over all sessions.
        fallbacks: Names of the fallbacks taken when memory ran out, in order.
        out_of_memory_count: How often it ran out.
        skipped_steps: Steps that were not applied, since their loss or gradient was not finite.
        skipped_in_a_row: Of these, those since the last that was applied.
    """

    step: int = 0
    epoch: int = 0
    position: int = 0
    started: bool = False
    tokens: int = 0
    best_value: float | None = None
    best_step: int | None = None
    train_seconds: float = 0.0
    fallbacks: list[str] = field(default_factory=list)
    out_of_memory_count: int = 0
    skipped_steps: int = 0
    skipped_in_a_row: int = 0

    def state_dict(self) -> dict[str, Any]:
        """Returns plain values, for a checkpoint."""
        return asdict(self)

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Takes over the values of `state_dict`."""
        for key, value in values.items():
            setattr(self, key, value)
