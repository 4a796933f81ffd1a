"""Callbacks' base class and what the loop shows them. No callback changes a step's results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcausal.config import RunConfig
from llmcausal.errors import ConfigError
from llmcausal.registry import nearest

if TYPE_CHECKING:
    import torch

Record = dict[str, Any]
"""One row of metrics.jsonl: step, epoch, loss terms, metrics, learning_rate, ..."""


def refuse_unknown(metric: str, setting: str, record: Record) -> None:
    """Raises a `ConfigError` if a validated record shows that the run has no such figure.

    Step 0's record has validation figures only, so it proves nothing about others.
    """
    validated = any(key.startswith("val_") for key in record)
    complete = record["step"] > 0 or metric.startswith("val_")
    if metric not in record and validated and complete:
        known = sorted(record.keys() - {"step", "epoch"})
        raise ConfigError(
            f"{setting}: this run has no figure {metric!r}{nearest(metric, known)} "
            f"Known: {', '.join(known)}"
        )


@dataclass
class TrainState:
    step: int = 0  # optimizer steps done
    epoch: int = 0  # current pass over the data, from 0
    position: int = 0  # triplets of this epoch already consumed
    started: bool = False  # whether step 0's record is written
    tokens: int = 0  # computed so far; a shared token counts once
    best_value: float | None = None  # of `checkpoint.best_metric`
    best_step: int | None = None
    train_seconds: float = 0.0  # wall time over all sessions
    fallbacks: list[str] = field(default_factory=list)  # names of those taken, in order
    out_of_memory_count: int = 0
    skipped_steps: int = 0  # not applied: loss or gradient was not finite
    skipped_in_a_row: int = 0

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, values: dict[str, Any]) -> None:
        vars(self).update(values)


@dataclass
class FitContext:
    config: RunConfig
    run_dir: Path  # exists
    state: TrainState  # live
    total_steps: int  # optimizer steps of the whole run
    steps_per_epoch: int
    device: torch.device
    samples: dict[str, int]  # number of training and validation triplets
    save_checkpoint: Callable[[], Path]  # writes `checkpoint-<step>` and returns its path
    save_best: Callable[[], Path]  # replaces `best/` by the present state
    notes: list[str] = field(default_factory=list)  # for the user; screens show new ones
    stop_reason: str | None = None  # set through `request_stop`

    def request_stop(self, reason: str) -> None:
        """Ends the run after the current step, with a checkpoint."""
        self.stop_reason = self.stop_reason or reason


class Callback:
    """Base of all callbacks; override what you need.

    At each step `on_step_end` of every callback comes first, then `on_record` of every callback,
    each in list order.
    """

    def state_dict(self) -> dict[str, Any]:
        """Returns plain values and tensors to keep in checkpoints."""
        return {}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Restores `state_dict` on resume, before `on_fit_start`."""

    def on_fit_start(self, context: FitContext) -> None:
        """The run is about to start, or to continue from `context.state`."""

    def on_validation_start(self, context: FitContext, batches: int) -> None:
        """A validation starts."""

    def on_validation_batch(self, context: FitContext) -> None:
        """One validation batch is done."""

    def on_micro_batch(self, context: FitContext, done: int, of: int) -> None:
        """One of the current step's micro-batches is done."""

    def on_step_end(self, context: FitContext, record: Record) -> None:
        """A step and its validation, if due (keys `val_*`), are done; may add figures."""

    def on_record(self, context: FitContext, record: Record) -> None:
        """The step's record is complete and must not change."""

    def on_checkpoint(self, context: FitContext, path: Path, is_best: bool) -> None:
        """A checkpoint is on disk."""

    def on_fit_end(self, context: FitContext, outcome: str) -> None:
        """The run ended; `outcome` is `completed`, `stopped`, `interrupted` or `failed`."""
