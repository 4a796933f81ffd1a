"""Writes checkpoints: every N steps, the newest K kept, and the best apart."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from llmcausal.errors import ConfigError
from llmcausal.registry import nearest
from llmcausal.train.callback import Callback, FitContext, Record, lacks
from llmcausal.train.checkpoint import prune

ROUNDING = 1e-9
"""Shares such as 0.96 - 0.02 and 0.94 differ in their last bits only."""


class ModelCheckpoint(Callback):
    """Comes last in the list, so that a checkpoint holds what the others learned of its step.

    The best value and its step are part of the run's state. With a guard metric, a checkpoint
    counts only while its guard is within `guard_within` of the best guard seen so far. It becomes
    the best if the one kept no longer counts, or if its metric is better, or as good with a better
    guard. Only one is kept, so a checkpoint once passed over does not come back when the
    window moves.

    Args:
        every_steps: Steps between checkpoints.
        keep: Number of newest checkpoints kept.
        metric: Decides which is best.
        mode: `min` or `max`.
        guard_metric: Metric, more of which is better, that the best must not give up.
        guard_within: How far below its best value the guard may be.
    """

    def __init__(
        self,
        every_steps: int,
        keep: int,
        metric: str,
        mode: str,
        guard_metric: str | None = None,
        guard_within: float = 0.0,
    ) -> None:
        self.every_steps = every_steps
        self.keep = keep
        self.metric = metric
        self.mode = mode
        self.guard_metric = guard_metric
        self.guard_within = guard_within
        self._guard_seen = -math.inf
        self._guard_kept: float | None = None

    def state_dict(self) -> dict[str, Any]:
        return {
            "guard_metric": self.guard_metric,
            "guard_seen": self._guard_seen,
            "guard_kept": self._guard_kept,
        }

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Keeps judging by the same values, unless the guard metric changed."""
        if values and values["guard_metric"] == self.guard_metric:
            self._guard_seen = values["guard_seen"]
            self._guard_kept = values["guard_kept"]

    def on_record(self, context: FitContext, record: Record) -> None:
        state = context.state
        measured = self._measured(record)
        if measured is not None and state.step > 0:
            value, guard = measured
            if guard is not None:
                self._guard_seen = max(self._guard_seen, guard)
            if self._is_best(state.best_value, value, guard):
                state.best_value, self._guard_kept = value, guard
                state.best_step = state.step
                context.save_best()
        if state.step > 0 and state.step % self.every_steps == 0:
            context.save_checkpoint()

    def on_checkpoint(self, context: FitContext, path: Path, is_best: bool) -> None:
        if not is_best:
            prune(context.run_dir, self.keep)

    def _measured(self, record: Record) -> tuple[float, float | None] | None:
        """Returns metric and guard, if both were measured and are finite."""
        value = self._figure("best_metric", self.metric, record)
        guard = None
        if self.guard_metric is not None:
            guard = self._figure("guard_metric", self.guard_metric, record)
            if guard is None:
                return None
        return None if value is None else (value, guard)

    def _figure(self, setting: str, metric: str, record: Record) -> float | None:
        """Returns a metric, if it was measured and is finite."""
        if lacks(record, metric):
            raise ConfigError(
                f"checkpoint.{setting} = {metric!r}: no such metric"
                f"{nearest(metric, record)} Measured: {', '.join(sorted(record))}"
            )
        value: float | None = record.get(metric)
        return value if value is not None and math.isfinite(value) else None

    def _is_best(self, best: float | None, value: float, guard: float | None) -> bool:
        if not self._counts(guard):
            return False
        if best is None or not self._counts(self._guard_kept):
            return True
        if value != best:
            return value < best if self.mode == "min" else value > best
        kept = self._guard_kept
        return guard is not None and kept is not None and guard > kept

    def _counts(self, guard: float | None) -> bool:
        """Says whether a guard is within the window; without one, everything is."""
        return guard is None or guard >= self._guard_seen - self.guard_within - ROUNDING
