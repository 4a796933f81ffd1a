"""Ends the run when a figure no longer improves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from llmcausal.train.callback import Callback, FitContext, Record, refuse_unknown


@dataclass(eq=False)
class EarlyStopping(Callback):
    """Requests a stop after `patience` measurements in a row without improvement.

    Only steps whose record has the metric count. A NaN or infinite value is no improvement.
    """

    metric: str = "val_loss"  # any figure of the record
    mode: Literal["min", "max"] = "min"  # whether less or more is better
    patience: int = 5
    min_delta: float = 0.001  # an improvement must be larger than this

    def __post_init__(self) -> None:
        self._seen = False
        self.forget()

    def forget(self) -> None:
        """Starts again, as after a change of the metric."""
        self.best: float | None = None
        self.best_step = 0
        self.count = 0

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_step": self.best_step, "count": self.count}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        vars(self).update(values)

    def on_record(self, context: FitContext, record: Record) -> None:
        if self.metric not in record:
            if not self._seen:
                refuse_unknown(self.metric, "early_stopping.metric", record)
            return
        self._seen = True
        value = float(record[self.metric])
        gain = math.inf
        if self.best is not None:
            gain = self.best - value if self.mode == "min" else value - self.best
        if math.isfinite(value) and gain > self.min_delta:
            self.best, self.best_step, self.count = value, int(record["step"]), 0
        else:
            self.count += 1
            self._stop_if_due(context)

    def on_fit_start(self, context: FitContext) -> None:
        self._stop_if_due(context)  # the checkpoint may be of a run that this callback stopped

    def _stop_if_due(self, context: FitContext) -> None:
        if self.count >= self.patience:
            best = "no finite value yet" if self.best is None else f"best {self.best:.4f}"
            context.request_stop(
                f"early stopping: {self.metric} has not improved by more than {self.min_delta:g} "
                f"in {self.count} measurements ({best} at step {self.best_step})"
            )
