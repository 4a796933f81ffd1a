"""Training curves: one small panel for each figure of metrics.jsonl, training and validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from markupsafe import Markup

from llmcausal.ui.plots import compact, number, tag, tick_label, ticks

Point = tuple[float, float]

_WIDTH, _HEIGHT = 260.0, 168.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 40.0, 246.0, 8.0, 144.0  # room for half a label
_MOST_POINTS = 400
_VALIDATION = "val_"


@dataclass
class Curve:
    """A figure over the steps.

    Attributes:
        title: What is drawn.
        unit: Of its values; may be empty.
        training: (step, value) of each step.
        validation: The same of each validation.
        ceiling: The highest value so far, where that is logged beside `training`.
    """

    title: str
    unit: str = ""
    training: list[Point] = field(default_factory=list)
    validation: list[Point] = field(default_factory=list)
    ceiling: list[Point] = field(default_factory=list)

    @property
    def last(self) -> str:
        """The newest values, in words."""
        kinds = (
            (self.training, ""),
            (self.validation, " in validation" if self.training else ""),
            (self.ceiling, " at most (dotted)"),
        )
        unit = f" {self.unit}" if self.unit else ""
        told = [f"{compact(line[-1][1])}{unit}{words}" for line, words in kinds if line]
        return "Last: " + ", ".join(told) if told else ""


@dataclass(frozen=True)
class Line:
    """One line of a panel that overlays several: its class in style.css, and (step, value)."""

    kind: str
    points: list[Point]


def collect(rows: Sequence[Mapping[str, Any]], name: str, title: str) -> Curve:
    """Takes a figure and its `val_` twin out of the rows; values that are not finite are left out.

    Args:
        rows: Of metrics.jsonl.
        name: Key of the figure, without prefix.
        title: Of the panel.
    """
    return Curve(
        title,
        training=points(rows, name),
        validation=points(rows, _VALIDATION + name),
    )


def points(rows: Iterable[Mapping[str, Any]], name: str, scale: float = 1.0) -> list[Point]:
    """Returns (step, value / scale) of each row that has the figure."""
    found = []
    for row in rows:
        step, value = number(row.get("step")), number(row.get(name))
        if step is not None and value is not None:
            found.append((step, value / scale))
    return found


def curve_panel(curve: Curve, steps: tuple[float, float], *, from_zero: bool = False) -> Markup:
    """Draws the panel: each step faint, its moving mean solid, validations dashed with rings.

    Args:
        curve: With at least one point.
        steps: First and last step of the axis, the same for all panels.
        from_zero: Begin the axis of values at zero.
    """
    values = [
        value for line in (curve.training, curve.validation, curve.ceiling) for _, value in line
    ]
    marks = ticks(min([0.0, *values] if from_zero else values), max(values))
    first, last, place = _scales(steps, marks)
    parts = [*_grid(marks, place, first), *_step_axis(first, last, place, marks[0])]
    if curve.training:
        smooth = _moving_mean(curve.training)
        if smooth is not curve.training:
            parts.append(_line(map(place, _thinned(curve.training)), "raw"))
        parts.append(_line(map(place, _thinned(smooth)), "training"))
    if curve.ceiling:
        parts.append(_line(map(place, _thinned(curve.ceiling)), "ceiling"))
    if curve.validation:
        placed = [place(point) for point in curve.validation]
        parts.append(_line(placed, "validation"))
        if len(placed) <= 60:
            parts += [tag("circle", class_="validation", cx=x, cy=y, r="2.6") for x, y in placed]
    return _panel(parts, f"{curve.title}, steps {first:.0f} to {last:.0f}. {curve.last}")


def overlay_panel(title: str, lines: Sequence[Line], steps: tuple[float, float]) -> Markup:
    """Draws one figure of several runs in one panel, each as its moving mean.

    Args:
        title: What is drawn.
        lines: At least one, each with at least one point.
        steps: First and last step of the axis, the same for all panels.
    """
    values = [value for line in lines for _, value in line.points]
    marks = ticks(min(values), max(values))
    first, last, place = _scales(steps, marks)
    parts = [*_grid(marks, place, first), *_step_axis(first, last, place, marks[0])]
    for line in lines:
        smooth = _thinned(_moving_mean(line.points))
        parts.append(_line(map(place, smooth), line.kind))
        if len(smooth) == 1:  # a path of one point shows nothing
            x, y = place(smooth[0])
            parts.append(tag("circle", class_=f"line {line.kind}", cx=x, cy=y, r="2"))
    return _panel(parts, f"{title}, steps {first:.0f} to {last:.0f}, {len(lines)} runs.")


def _scales(
    steps: tuple[float, float], marks: Sequence[float]
) -> tuple[float, float, Callable[[Point], Point]]:
    """Returns the ends of the step axis, and what places a (step, value) on the panel."""
    first, last = steps[0], max(steps[1], steps[0] + 1)
    bottom, top = marks[0], marks[-1]

    def place(point: Point) -> Point:
        across = _LEFT + (_RIGHT - _LEFT) * (point[0] - first) / (last - first)
        up = (point[1] - bottom) / (top - bottom)
        return across, _BOTTOM - (_BOTTOM - _TOP) * up

    return first, last, place


def _panel(parts: Sequence[Markup], label: str) -> Markup:
    return tag(
        "svg",
        *parts,
        class_="panel",
        viewBox=f"0 0 {_WIDTH:.0f} {_HEIGHT:.0f}",
        role="img",
        aria_label=label,
    )


def _grid(marks: list[float], place: Any, first: float) -> list[Markup]:
    parts = []
    shown = marks if len(marks) <= 7 else marks[::2]
    for mark in shown:
        y = place((first, mark))[1]
        parts.append(tag("line", class_="grid", x1=_LEFT, x2=_RIGHT, y1=y, y2=y))
        label = tick_label(mark, marks)
        parts.append(tag("text", label, class_="tick", x=_LEFT - 6, y=y + 3.5, text_anchor="end"))
    return parts


def _step_axis(first: float, last: float, place: Any, bottom: float) -> list[Markup]:
    marks = [mark for mark in ticks(first, last, 4) if first <= mark <= last and mark % 1 == 0]
    parts = []
    for mark in marks:
        x = place((mark, bottom))[0]
        parts.append(
            tag("line", class_="axis", x1=x, x2=x, y1=_BOTTOM, y2=_BOTTOM + 4)
            + tag("text", f"{mark:.0f}", class_="tick", x=x, y=_BOTTOM + 16, text_anchor="middle")
        )
    return [tag("line", class_="axis", x1=_LEFT, x2=_RIGHT, y1=_BOTTOM, y2=_BOTTOM), *parts]


def _line(placed: Iterable[Point], kind: str) -> Markup:
    path = "M" + " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    return tag("path", class_=f"line {kind}", d=path)


def _moving_mean(curve: list[Point]) -> list[Point]:
    """Averages over a twentieth of the run on each side; few points are left as they are."""
    reach = len(curve) // 40
    if reach < 1:
        return curve
    sums = [0.0, *accumulate(value / len(curve) for _, value in curve)]
    smooth = []
    for index, (step, _) in enumerate(curve):
        start, stop = max(0, index - reach), min(len(curve), index + reach + 1)
        smooth.append((step, (sums[stop] - sums[start]) / (stop - start) * len(curve)))
    return smooth


def _thinned(curve: list[Point]) -> list[Point]:
    """Keeps the lowest and the highest point of each stretch, so that no spike is lost."""
    if len(curve) <= _MOST_POINTS:
        return curve
    size = math.ceil(2 * len(curve) / _MOST_POINTS)
    kept = []
    for start in range(0, len(curve), size):
        stretch = curve[start : start + size]
        extremes = {
            min(stretch, key=lambda point: point[1]),
            max(stretch, key=lambda point: point[1]),
        }
        kept += sorted(extremes)
    return kept
