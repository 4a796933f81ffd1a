"""Drawings as SVG: tags, figures, interval strips, maps.

Text is the page's own font and colours are its CSS classes, so one drawing serves light, dark and
print; the same input gives the same bytes.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from llmcausal.ui.console import HIDDEN_CATEGORIES

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


_BLANK_LETTERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Letters and marks by category, but nothing is seen of them."""
_TAGS = range(0xE0020, 0xE007F)
"""Invisible copies of ASCII: whole sentences are smuggled in them."""


def is_hidden(char: str) -> bool:
    """Tells whether a reader would not see a character, or it would reorder others."""
    category = unicodedata.category(char)
    return (
        (category in HIDDEN_CATEGORIES and char not in "\n\t")
        or category in ("Zl", "Zp")
        or (category == "Zs" and char != " ")
        or char in _BLANK_LETTERS
        or "\ufe00" <= char <= "\ufe0f"
        or "\U000e0100" <= char <= "\U000e01ef"
    )


def hidden_name(char: str) -> str:
    """Writes an invisible character: as its code, or the ASCII letter that a tag stands for."""
    code = ord(char)
    return f"tag {chr(code - 0xE0000)}" if code in _TAGS else f"U+{code:04X}"


def spelled(text: object) -> str:
    """Returns any value as text in which invisible characters and bidi controls are spelled out."""
    return "".join(f"⟨{hidden_name(c)}⟩" if is_hidden(c) else c for c in str(text))


def tag(name: str, *children: str, **attributes: str | float | None) -> Markup:
    """Makes an element; all text in it and in its attributes is escaped.

    Args:
        name: Of the element.
        children: `Markup` is taken as it is; a plain string is text.
        attributes: `_` in a name stands for `-`, and at its end for nothing; None is left out.
    """
    written = Markup("").join(
        Markup(' {}="{}"').format(
            key.rstrip("_").replace("_", "-"),
            _coordinate(value) if isinstance(value, float) else spelled(value),
        )
        for key, value in attributes.items()
        if value is not None
    )
    inner = Markup("").join(
        child if isinstance(child, Markup) else escape(spelled(child)) for child in children
    )
    if not inner:
        return Markup("<{}{}/>").format(Markup(name), written)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), written, inner)


def _coordinate(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0").replace("-0", "0", abs(value) < 0.05)


def interval_strip(entries: Sequence[tuple[str, Measured]]) -> Markup:
    """Draws each share as a dot on its interval, one under another, as wide as its container.

    The figures must stand beside it in text: to a screen reader the drawing does not exist.

    Args:
        entries: CSS class (`base` is drawn as a ring, any other as a diamond) and figure.
    """
    height = 13 * len(entries) + 5
    parts = [
        tag("line", class_="grid", x1=f"{share}%", x2=f"{share}%", y1=0, y2=height)
        for share in (0, 25, 50, 75, 100)
    ]
    for row, (kind, figure) in enumerate(entries):
        parts.extend(_dot_on_interval(kind, figure, 9 + 13 * row))
    return tag("svg", *parts, class_="strip", width="100%", height=str(height), aria_hidden="true")


def _dot_on_interval(kind: str, figure: Measured, y: int) -> list[Markup]:
    if figure.value is None:
        return []

    def at(value: float) -> str:
        return f"{100 * min(max(value, 0), 1):.2f}%"

    parts = []
    if figure.low is not None and figure.high is not None:
        bar = f"bar {kind}"
        parts.append(tag("line", class_=bar, x1=at(figure.low), x2=at(figure.high), y1=y, y2=y))
    if kind == "base":
        parts.append(tag("circle", class_="dot base", cx=at(figure.value), cy=y, r="4"))
    else:
        # Percentages place the inner picture; paths have none of their own.
        diamond = tag("path", class_=f"dot {kind}", d="M0-5.5 5.5 0 0 5.5-5.5 0z")
        parts.append(tag("svg", diamond, class_="mark", x=at(figure.value), y=y))
    return parts


MEMBERS = {"benign": "benign", "benign_cf": "harmless variant", "injection": "injected"}
"""Key of each kind, and how it is called. The order is that of drawing."""

_SHAPES = {
    "benign": "M{x},{y}m-3.2,0a3.2,3.2 0 1 0 6.4,0a3.2,3.2 0 1 0-6.4,0z",
    "benign_cf": "M{x},{y}m-2.7-2.7h5.4v5.4h-5.4z",
    "injection": "M{x},{y}m0-4 3.7,6.6h-7.4z",
}
_WIDTH, _HEIGHT, _MARGIN = 420.0, 340.0, 16.0
_MOST_TRIPLETS = 400


def representation_map(points: Sequence[Mapping[str, Any]], label: str) -> Markup | None:
    """Draws each point by its kind: disc, square or triangle; None where there is nothing to draw.

    Args:
        points: `{"id", "member", "x", "y"}` each; of more than 400 a kind, every so many are drawn.
        label: What the map shows, for those who do not see it.
    """
    kinds: dict[str, list[tuple[float, float]]] = {member: [] for member in MEMBERS}
    for point in points:
        x, y = number(point.get("x")), number(point.get("y"))
        if x is not None and y is not None and point.get("member") in kinds:
            kinds[point["member"]].append((x, y))
    every = [place for places in kinds.values() for place in places]
    if not every:
        return None
    placed = _placer(every)
    parts = [tag("rect", class_="frame", x=0.5, y=0.5, width=_WIDTH - 1, height=_HEIGHT - 1, rx=6)]
    for member, places in kinds.items():
        stride = -(-len(places) // _MOST_TRIPLETS) or 1
        shapes = [member_shape(member, *placed(place)) for place in places[::stride]]
        parts.append(tag("g", *shapes, class_=f"kind {member}"))
    view = f"0 0 {_WIDTH:.0f} {_HEIGHT:.0f}"
    return tag("svg", *parts, class_="map", viewBox=view, role="img", aria_label=label)


def member_shape(member: str, x: float, y: float) -> Markup:
    """Draws the mark of a kind."""
    return tag("path", d=_SHAPES[member].format(x=f"{x:.1f}", y=f"{y:.1f}"))


def _placer(every: Sequence[tuple[float, float]]) -> Any:
    """Scales both axes alike, so that distances in the drawing mean the same in each direction."""
    left, right = min(x for x, _ in every), max(x for x, _ in every)
    low, high = min(y for _, y in every), max(y for _, y in every)
    scale = min(
        (_WIDTH - 2 * _MARGIN) / ((right - left) or 1e-9),
        (_HEIGHT - 2 * _MARGIN) / ((high - low) or 1e-9),
    )
    middle_x, middle_y = (left + right) / 2, (low + high) / 2

    def place(point: tuple[float, float]) -> tuple[float, float]:
        return (
            _WIDTH / 2 + (point[0] - middle_x) * scale,
            _HEIGHT / 2 - (point[1] - middle_y) * scale,
        )

    return place
