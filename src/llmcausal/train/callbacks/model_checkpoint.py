"""Writes checkpoints: every N steps, the newest K kept, and the best apart."""

from __future__ import annotations

import math
from pathlib import Path

from llmcausal.errors import ConfigError
from llmcausal.registry import nearest
from llmcausal.train.callback import Callback, FitContext, Record
from llmcausal.train.checkpoint import prune


class ModelCheckpoint(Callback):
    """Comes last in the list, so that a checkpoint holds what the others learned of its step.

    The best value and its step are part of the run's state.

    Args:
        every_steps: Steps between checkpoints.
        keep: Newest ones kept.
        metric: Metric that decides which is best.
        mode: `min` or `max`.
    """

    def __init__(self, every_steps: int, keep: int, metric: str, mode: str) -> None:
        self.every_steps = every_steps
        self.keep = keep
        self.metric = metric
        self.mode = mode

    def on_record(self, context: FitContext, record: Record) -> None:
        """Saves the best and the periodic checkpoint."""
        state = context.state
        if self._is_best(state.best_value, record) and state.step > 0:
            state.best_value = record[self.metric]
            state.best_step = state.step
            context.save_best()
        if state.step > 0 and state.step % self.every_steps == 0:
            context.save_checkpoint()

    def on_checkpoint(self, context: FitContext, path: Path, is_best: bool) -> None:
        """Deletes what is too old."""
        if not is_best:
            prune(context.run_dir, self.keep)

    def _is_best(self, best: float | None, record: Record) -> bool:
        value = record.get(self.metric)
        if value is None:
            judged = record["step"] > 0 or self.metric.startswith("val_")
            if judged and any(key.startswith("val_") for key in record):
                raise ConfigError(
                    f"checkpoint.best_metric = {self.metric!r}: no such metric"
                    f"{nearest(self.metric, record)} Measured: {', '.join(sorted(record))}"
                )
            return False
        if not math.isfinite(value):
            return False
        return best is None or (value < best if self.mode == "min" else value > best)
