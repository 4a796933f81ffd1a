"""Reading and writing figures: names, units, intervals, sparklines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmcausal.launched import MEMORY_OF_PROCESS
from llmcausal.metrics import CORE, COSINES

LOSS_TERMS = {
    "loss": "loss",
    "task_loss": "task",
    "robust_loss": "robust",
    "adversarial_loss": "adversarial",
    "swap_loss": "swap",
    "preference_loss": "preference",
    "invariance_loss": "invariance",
    "state_loss": "state",
    "contrastive_loss": "contrastive",
}
CAUSAL_METRICS = {metric.name: metric.short for metric in COSINES}
PROBE_METRICS = {metric.name: metric.short for metric in CORE}
BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = "_.:-=+*#"
MISSING = "–"  # noqa: RUF001 - an en dash, which reads as an empty cell
_LARGEST = 1e300
"""Differences and means of numbers up to this one are finite."""


def number(raw: object) -> float | None:
    """Returns a number as a float; None if it is no number, not finite or absurdly large."""
    if isinstance(raw, bool) or not isinstance(raw, (int, float)):
        return None
    try:
        value = float(raw)
    except OverflowError:
        return None
    return value if abs(value) <= _LARGEST else None


@dataclass(frozen=True)
class Measured:
    """A figure over `n` examples and its 95% interval, from an untrusted file.

    Parts that are no numbers are None.
    """

    value: float | None = None
    n: int | None = None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, raw: object) -> Measured:
        """Reads `{"value", "n", "low", "high"}` or a number without interval."""
        if not isinstance(raw, Mapping):
            return cls(value=number(raw))
        n = number(raw.get("n"))
        low, high = number(raw.get("low")), number(raw.get("high"))
        if low is None or high is None:
            low = high = None
        return cls(number(raw.get("value")), None if n is None else int(n), low, high)

    @property
    def percent(self) -> str:
        return MISSING if self.value is None else f"{100 * self.value:.1f}%"

    @property
    def percent_interval(self) -> str:
        """The interval in percent; may be empty."""
        if self.low is None or self.high is None:
            return ""
        return f"{100 * self.low:.1f} to {100 * self.high:.1f}"

    @property
    def plain(self) -> str:
        return MISSING if self.value is None else compact(self.value)

    @property
    def plain_interval(self) -> str:
        if self.low is None or self.high is None:
            return ""
        size = None if self.value is None else abs(self.value)
        return f"{compact(self.low, size)} to {compact(self.high, size)}"


def compact(value: float, size: float | None = None) -> str:
    """Writes a number in few digits, or in powers of ten if it is large or small.

    `size`, by default the number itself, decides the form.
    """
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    size = abs(value) if size is None else size
    if size >= 100_000 or 0 < size < 0.001:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    if size >= 100:
        return f"{value:.0f}"
    return f"{value:.3f}" if size < 10 else f"{value:.1f}"


def duration(seconds: float) -> str:
    """Writes 75 as `1:15`, 3675 as `1:01:15`, and days as `2d 03:01:15`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours:02}:{minutes:02}:{rest:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def gibibytes(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"


def memory_of_others(record: Mapping[str, Any]) -> list[float]:
    """Returns the memory of all processes except the first, in bytes."""
    return [value for key, value in record.items() if key.startswith(MEMORY_OF_PROCESS)]


def step_time(seconds: float) -> str:
    return f"{seconds:.1f} s/step" if seconds < 100 else f"{duration(seconds)} a step"


def figure(name: str, value: object) -> str:
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
    measured = isinstance(tokens, (int, float)) and isinstance(seconds, (int, float))
    return tokens / seconds if measured and seconds > 0 else None  # type: ignore[operator]


def sparkline(values: Sequence[float], width: int, ascii_only: bool = False) -> str:
    """Draws the last `width` values, one character each; values not finite are blank."""
    shown = list(values[-width:]) if width > 0 else []
    finite = [value for value in shown if math.isfinite(value)]
    if not finite:
        return " " * len(shown)
    blocks = ASCII_BLOCKS if ascii_only else BLOCKS
    low, high = min(finite), max(finite)
    # The difference of two huge floats may overflow, that of their halves cannot.
    span = high / 2 - low / 2
    top = len(blocks) - 1

    def block(value: float) -> str:
        if not math.isfinite(value):
            return " "
        return blocks[round((value / 2 - low / 2) / span * top)] if span > 0 else blocks[top // 2]

    return "".join(block(value) for value in shown)
