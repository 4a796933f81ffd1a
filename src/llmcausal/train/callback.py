"""What a callback may see and do. A callback never changes the mathematics of a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcausal.config import RunConfig

if TYPE_CHECKING:
    import torch

Record = dict[str, Any]
"""One row of metrics.jsonl: step, epoch, loss terms, metrics, learning_rate, ..."""


def lacks(record: Record, metric: str) -> bool:
    """Whether a validated record shows that the run has no such figure.

    The row of step 0 holds validation figures only, so it says nothing of the others.
    """
    validated = any(key.startswith("val_") for key in record)
    complete = record["step"] > 0 or metric.startswith("val_")
    return metric not in record and validated and complete


@dataclass
class TrainState:
    """Position and totals of a run."""

    step: int = 0  # optimizer steps done
    epoch: int = 0  # current pass over the data, from 0
    position: int = 0  # triplets of this epoch already consumed
    started: bool = False  # whether the record of step 0 is written
    tokens: int = 0  # tokens computed so far (a shared token counts once)
    best_value: float | None = None  # best value of `checkpoint.best_metric`, once there is one
    best_step: int | None = None
    train_seconds: float = 0.0  # wall time spent training, over all sessions
    # Names of the fallbacks taken when memory ran out, in order.
    fallbacks: list[str] = field(default_factory=list)
    out_of_memory_count: int = 0
    skipped_steps: int = 0  # steps that were not applied: their loss or gradient was not finite
    skipped_in_a_row: int = 0  # skipped steps since the last that was applied

    def state_dict(self) -> dict[str, Any]:
        """Returns plain values, for a checkpoint."""
        return asdict(self)

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Takes over the values of `state_dict`."""
        for key, value in values.items():
            setattr(self, key, value)


@dataclass
class FitContext:
    """What the loop shows its callbacks."""

    config: RunConfig
    run_dir: Path  # exists
    state: TrainState  # position, live
    total_steps: int  # optimizer steps of the whole run
    steps_per_epoch: int
    device: torch.device
    samples: dict[str, int]  # number of training and validation triplets
    save_checkpoint: Callable[[], Path]  # writes `checkpoint-<step>` now and returns its path
    save_best: Callable[[], Path]  # replaces `best/` by the present state
    # Facts worth telling at the start (model, sizes, what the ledger dropped).
    notes: list[str] = field(default_factory=list)
    stop_reason: str | None = None  # set through `request_stop`

    def request_stop(self, reason: str) -> None:
        """Ends the run after the current step, with a checkpoint."""
        if self.stop_reason is None:
            self.stop_reason = reason


class Callback:
    """Base of all callbacks; override what you need.

    Within one step the order is: `on_step_end` of every callback (may add figures to the
    record), then `on_record` of every callback (the record is complete), each in list order.
    """

    def state_dict(self) -> dict[str, Any]:
        """Returns plain values and tensors to keep in checkpoints."""
        return {}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Takes over the values of `state_dict` on resume; called before `on_fit_start`."""

    def on_fit_start(self, context: FitContext) -> None:
        """The run is about to begin, or to go on from `context.state`."""

    def on_validation_start(self, context: FitContext, batches: int) -> None:
        """Validation over so many batches begins."""

    def on_validation_batch(self, context: FitContext) -> None:
        """One validation batch is done."""

    def on_micro_batch(self, context: FitContext, done: int, of: int) -> None:
        """One micro-batch of the current step is done."""

    def on_step_end(self, context: FitContext, record: Record) -> None:
        """A step is done, and its validation if one was due (keys `val_*`); may add figures."""

    def on_record(self, context: FitContext, record: Record) -> None:
        """The step's record is complete; it must not be changed any more."""

    def on_checkpoint(self, context: FitContext, path: Path, is_best: bool) -> None:
        """A checkpoint was written."""

    def on_fit_end(self, context: FitContext, outcome: str) -> None:
        """The run ended.

        Args:
            context: Says why under `stop_reason`.
            outcome: `completed`, `stopped`, `interrupted` or `failed`.
        """
