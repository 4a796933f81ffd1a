"""How figures are written: names, units, sparklines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from llmcausal.launched import MEMORY_OF_PROCESS
from llmcausal.metrics import CORE, COSINES

LOSS_TERMS = {
    "loss": "loss",
    "task_loss": "task",
    "robust_loss": "robust",
    "swap_loss": "swap",
    "preference_loss": "preference",
    "invariance_loss": "invariance",
    "contrastive_loss": "contrastive",
}
CAUSAL_METRICS = {metric.name: metric.short for metric in COSINES}
PROBE_METRICS = {metric.name: metric.short for metric in CORE}
BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = "_.:-=+*#"


def duration(seconds: float) -> str:
    """Writes 75 as `1:15`, 3675 as `1:01:15`, more than a day as `2d 03:01:15`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours:02}:{minutes:02}:{rest:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def gibibytes(count: float) -> str:
    """Writes bytes as GiB, which is what memory limits are given in."""
    return f"{count / 2**30:.2f} GiB"


def memory_of_others(record: Mapping[str, Any]) -> list[float]:
    """Returns the bytes that the processes beside the first hold, in their order."""
    return [value for key, value in record.items() if key.startswith(MEMORY_OF_PROCESS)]


def step_time(seconds: float) -> str:
    return f"{seconds:.1f} s/step" if seconds < 100 else f"{duration(seconds)} a step"


def figure(name: str, value: object) -> str:
    """Writes one figure of the record: rates in their own way, others to 4 digits."""
    if not isinstance(value, (int, float)):
        return "-"
    if not math.isfinite(value):
        return str(value)
    if name.startswith("learning_rate"):
        return f"{value:.2e}"
    if name == "tokens_per_second":
        return f"{value:,.0f}"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.4g}"


def tokens_per_second(tokens: object, seconds: object) -> float | None:
    """Divides, where both were measured."""
    measured = isinstance(tokens, (int, float)) and isinstance(seconds, (int, float))
    return tokens / seconds if measured and seconds > 0 else None  # type: ignore[operator]


def sparkline(values: Sequence[float], width: int, ascii_only: bool = False) -> str:
    """Draws the last `width` values, one character each; a value that is not finite is blank."""
    shown = list(values[-width:]) if width > 0 else []
    finite = [value for value in shown if math.isfinite(value)]
    if not finite:
        return " " * len(shown)
    blocks = ASCII_BLOCKS if ascii_only else BLOCKS
    low, high = min(finite), max(finite)
    # Halved, since the difference of two huge floats may overflow.
    span = high / 2 - low / 2
    top = len(blocks) - 1

    def block(value: float) -> str:
        if not math.isfinite(value):
            return " "
        return blocks[round((value / 2 - low / 2) / span * top)] if span > 0 else blocks[top // 2]

    return "".join(block(value) for value in shown)
