"""Running means of the causal metrics, which one step alone measures too noisily to read."""

from __future__ import annotations

from collections import deque
from typing import Any

from llmcausal.metrics import COSINES
from llmcausal.train.callback import Callback, FitContext, Record


class CausalMetrics(Callback):
    """Adds `<metric>_mean`: the mean over the last `window` steps (20 unless told otherwise).

    Steps without the metric (a contrastive weight of 0) are passed over. The values in the
    window are kept in checkpoints, so a resumed run reports the same means.

    Args:
        window: Most steps that are averaged.
    """

    def __init__(self, window: int = 20) -> None:
        names = [metric.name for metric in COSINES]
        self._recent: dict[str, deque[float]] = {name: deque(maxlen=window) for name in names}

    def state_dict(self) -> dict[str, Any]:
        """Returns the values in each window."""
        return {name: list(values) for name, values in self._recent.items()}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Fills the windows again."""
        for name, recent in self._recent.items():
            recent.clear()
            recent.extend(values[name])

    def on_step_end(self, context: FitContext, record: Record) -> None:
        """Adds the means."""
        for name, recent in self._recent.items():
            if name in record:
                recent.append(float(record[name]))
                record[f"{name}_mean"] = sum(recent) / len(recent)
