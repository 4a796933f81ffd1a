"""Figures as they are drawn and written in reports: values with intervals, and ticks of an axis."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

MISSING = "–"  # noqa: RUF001 - an en dash, which reads as an empty cell


_LARGEST = 1e300
"""Differences and means of numbers up to here are finite."""


def number(raw: object) -> float | None:
    """Returns a number as a float; None for what is none, not finite or absurdly large."""
    if isinstance(raw, bool) or not isinstance(raw, (int, float)):
        return None
    try:
        value = float(raw)
    except OverflowError:
        return None
    return value if abs(value) <= _LARGEST else None


@dataclass(frozen=True)
class Measured:
    """A figure with its 95% interval; each part is None where it was not measured.

    Attributes:
        value: The figure, a share of 1 unless the caller says otherwise.
        n: How many examples it rests on.
        low: Lower end of the interval.
        high: Upper end.
    """

    value: float | None = None
    n: int | None = None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, raw: object) -> Measured:
        """Reads `{"value", "n", "low", "high"}`; a bare number is a value without interval."""
        if not isinstance(raw, Mapping):
            return cls(value=number(raw))
        n = number(raw.get("n"))
        low, high = number(raw.get("low")), number(raw.get("high"))
        if low is None or high is None:
            low = high = None
        return cls(number(raw.get("value")), None if n is None else int(n), low, high)

    @property
    def percent(self) -> str:
        """The value as a percentage."""
        return MISSING if self.value is None else f"{100 * self.value:.1f}%"

    @property
    def percent_interval(self) -> str:
        """The interval in percent; empty where there is none."""
        if self.low is None or self.high is None:
            return ""
        return f"{100 * self.low:.1f} to {100 * self.high:.1f}"

    @property
    def plain(self) -> str:
        """The value as a number."""
        return MISSING if self.value is None else compact(self.value)

    @property
    def plain_interval(self) -> str:
        """The interval in numbers; empty where there is none."""
        if self.low is None or self.high is None:
            return ""
        size = None if self.value is None else abs(self.value)
        return f"{compact(self.low, size)} to {compact(self.high, size)}"


def compact(value: float, size: float | None = None) -> str:
    """Writes a number in few digits, or in powers of ten where those would not show it.

    Args:
        value: The number.
        size: Write it as a number of this size is written; by default its own.
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


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Returns round numbers that cover `low` to `high`: the first is below, the last above.

    A range without width gets one.
    """
    span = high - low
    if span < max(abs(low), abs(high), 1e-6) * 1e-6:
        margin = max(abs(high) * 0.1, 1e-6)
        low, high = max(low - margin, 0.0) if low >= 0 else low - margin, high + margin
        span = high - low
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * unit for unit in (1, 2, 2.5, 5, 10) if power * unit >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def tick_label(value: float, marks: list[float]) -> str:
    """Writes a tick with as many digits as tell it from its neighbours."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    if not 1e-3 <= max(abs(mark) for mark in marks) < 1e6:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    step = abs(marks[1] - marks[0]) if len(marks) > 1 else abs(value)
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) if step else 0
    if round(step, digits) != round(step, digits + 1):  # a step of 0.25 needs one more
        digits += 1
    return f"{value:,.{min(digits, 6)}f}"
