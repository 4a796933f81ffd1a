"""Writes checkpoints: the newest ones and the best."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmcausal.train.callback import Callback, FitContext, Record, refuse_unknown
from llmcausal.train.checkpoint import prune

ROUNDING = 1e-9
"""Shares such as 0.96 - 0.02 and 0.94 differ by rounding."""


@dataclass(eq=False)
class ModelCheckpoint(Callback):
    """Must be the last callback: a checkpoint includes the other callbacks' state.

    With a guard metric, a checkpoint counts only while its guard is within `guard_within` of the
    best guard so far. It becomes the best if the kept one no longer counts, if its metric is
    better, or if its metric is equal and its guard better. Only one best is kept, so a rejected
    checkpoint does not return when the window moves.
    """

    every_steps: int
    keep: int  # number of newest checkpoints kept
    metric: str  # decides which is best
    mode: str  # `min` or `max`
    guard_metric: str | None = None  # the best checkpoint must not lower it; more is better
    guard_within: float = 0.0  # how far below its best value the guard may be

    def __post_init__(self) -> None:
        self._guard_seen = -math.inf
        self._guard_kept: float | None = None

    def state_dict(self) -> dict[str, Any]:
        return {
            "guard_metric": self.guard_metric,
            "guard_seen": self._guard_seen,
            "guard_kept": self._guard_kept,
        }

    def load_state_dict(self, values: dict[str, Any]) -> None:
        if values and values["guard_metric"] == self.guard_metric:
            self._guard_seen = values["guard_seen"]
            self._guard_kept = values["guard_kept"]

    def on_record(self, context: FitContext, record: Record) -> None:
        state = context.state
        value = _finite(self.metric, "checkpoint.best_metric", record)
        guard = None
        if self.guard_metric is not None:
            guard = _finite(self.guard_metric, "checkpoint.guard_metric", record)
        if state.step == 0:
            return
        if value is not None and (self.guard_metric is None or guard is not None):
            if guard is not None:
                self._guard_seen = max(self._guard_seen, guard)
            if self._is_best(state.best_value, value, guard):
                state.best_value, self._guard_kept = value, guard
                state.best_step = state.step
                context.save_best()
        if state.step % self.every_steps == 0:
            context.save_checkpoint()

    def on_checkpoint(self, context: FitContext, path: Path, is_best: bool) -> None:
        if not is_best:
            prune(context.run_dir, self.keep)

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
        """Whether a guard is within the window; without a guard, every checkpoint is."""
        return guard is None or guard >= self._guard_seen - self.guard_within - ROUNDING


def _finite(metric: str, setting: str, record: Record) -> float | None:
    refuse_unknown(metric, setting, record)
    value: float | None = record.get(metric)
    return value if value is not None and math.isfinite(value) else None
