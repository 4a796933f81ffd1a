"""What a callback may see and do. A callback never changes the mathematics of a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcausal.config import RunConfig
from llmcausal.train.state import TrainState

if TYPE_CHECKING:
    import torch

Record = dict[str, Any]
"""One row of metrics.jsonl: step, epoch, loss terms, metrics, learning_rate, ..."""


@dataclass
class FitContext:
    """What the loop shows its callbacks.

    Attributes:
        config: The run's settings.
        run_dir: The run directory; exists.
        state: Position, live.
        total_steps: Steps of the whole run.
        steps_per_epoch: Optimizer steps in one epoch.
        device: Where the model trains.
        samples: Number of training and validation triplets.
        notes: Facts worth telling at the start (model, sizes, what the ledger dropped).
        save_checkpoint: Writes `checkpoint-<step>` now and returns its path.
        save_best: Replaces `best/` by the present state.
        stop_reason: Set through `request_stop`.
    """

    config: RunConfig
    run_dir: Path
    state: TrainState
    total_steps: int
    steps_per_epoch: int
    device: torch.device
    samples: dict[str, int]
    save_checkpoint: Callable[[], Path]
    save_best: Callable[[], Path]
    notes: list[str] = field(default_factory=list)
    stop_reason: str | None = None

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
            context: The run.
            outcome: `completed`, `stopped` (see `context.stop_reason`), `interrupted` or `failed`.
        """
