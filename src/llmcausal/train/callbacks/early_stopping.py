"""Ends the run when a figure no longer improves."""

from __future__ import annotations

import math
from typing import Any, Literal

from llmcausal.errors import ConfigError
from llmcausal.registry import nearest
from llmcausal.train.callback import Callback, FitContext, Record, lacks


class EarlyStopping(Callback):
    """Requests a stop after `patience` measurements in a row without improvement.

    Only steps whose record has the metric count. A NaN or infinite value is no improvement.

    Args:
        metric: Any figure of the record, such as `val_loss`.
        mode: Whether less (`min`) or more (`max`) of it is better.
        patience: Measurements without improvement before stopping.
        min_delta: An improvement must be larger than this.
    """

    def __init__(
        self,
        metric: str = "val_loss",
        mode: Literal["min", "max"] = "min",
        patience: int = 5,
        min_delta: float = 0.001,
    ) -> None:
        self.metric = metric
        self.mode = mode
        self.patience = patience
        self.min_delta = min_delta
        self._seen = False
        self.forget()

    def forget(self) -> None:
        """Begins anew, as with a metric that was not watched before."""
        self.best: float | None = None
        self.best_step = 0
        self.count = 0

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_step": self.best_step, "count": self.count}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        self.best = values["best"]
        self.best_step = values["best_step"]
        self.count = values["count"]

    def on_record(self, context: FitContext, record: Record) -> None:
        """Counts this record if it has the metric.

        Raises:
            ConfigError: If a validated record shows that the run has no such metric.
        """
        if self.metric not in record:
            if not self._seen and lacks(record, self.metric):
                known = sorted(record.keys() - {"step", "epoch"})
                raise ConfigError(
                    f"early_stopping.metric: this run has no figure {self.metric!r}"
                    f"{nearest(self.metric, known)} Known: {', '.join(known)}"
                )
            return
        self._seen = True
        value = float(record[self.metric])
        if self._improves(value):
            self.best, self.best_step, self.count = value, int(record["step"]), 0
            return
        self.count += 1
        self._stop_if_due(context)

    def on_fit_start(self, context: FitContext) -> None:
        """Stops a run again that had been stopped when its checkpoint was written."""
        self._stop_if_due(context)

    def _stop_if_due(self, context: FitContext) -> None:
        if self.count >= self.patience:
            best = "no finite value yet" if self.best is None else f"best {self.best:.4f}"
            context.request_stop(
                f"early stopping: {self.metric} has not improved by more than {self.min_delta:g} "
                f"in {self.count} measurements ({best} at step {self.best_step})"
            )

    def _improves(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        if self.best is None:
            return True
        gain = self.best - value if self.mode == "min" else value - self.best
        return gain > self.min_delta
