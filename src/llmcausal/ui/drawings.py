"""Plots by matplotlib, and hand-written strips of intervals, which stretch with their column.

On a page each mark has a CSS class instead of a color and a font, so one drawing serves light, dark
and print. The same input gives the same bytes.
"""

from __future__ import annotations

import io
import logging
import math
import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup

from llmcausal.errors import UsageError
from llmcausal.metrics import CORE, Metric
from llmcausal.ui.figures import Measured, compact, number
from llmcausal.ui.hostile_text import spelled, tag

Point = tuple[float, float]
"""A step and its value; on a map, x and y."""
Line = tuple[str, Sequence[Point]]
"""A panel's line: its class in style.css, and at least one point."""


@contextmanager
def drawing(
    width: float, height: float, *, salt: str = "", font: float = 8, **settings: Any
) -> Iterator[Any]:
    """Yields an empty figure of `width` by `height` points; its SVG keeps text as text.

    Figures on one page need different `salt`, which decides their SVG's ids. `settings` are those
    of matplotlib's `Figure`.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # its first use logs its caches
    import matplotlib
    from matplotlib.figure import Figure

    fixed: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": f"llmcausal{spelled(salt)}",
        "font.size": font,
    }
    with matplotlib.rc_context(fixed), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the reader's fonts draw the text
        yield Figure(figsize=(width / 72, height / 72), dpi=72, **settings)


def picture(figure: Any, form: str = "svg") -> bytes:
    """Returns the figure as a file's content, without a date; call it within `drawing`."""
    out = io.BytesIO()
    figure.savefig(out, format=form, dpi=100, metadata={"Date": None} if form == "svg" else None)
    return out.getvalue()


def check_plot_path(path: Path, *suffixes: str) -> None:
    """Raises a `UsageError` if a plot's file has none of the suffixes."""
    if path.suffix.lower() not in suffixes:
        names = " or ".join(f"{path.stem}{suffix}" for suffix in suffixes)
        raise UsageError(f"--plot {path}: name it {names}")


def _for_page(figure: Any, label: str, *first: Markup, **attributes: str) -> Markup:
    """Keeps the marks with a gid, which becomes their class, and drops other styling."""
    root = ElementTree.fromstring(picture(figure))
    return tag(
        "svg",
        *first,
        *_marks(root, inside=False),
        viewBox=root.get("viewBox"),
        role="img",
        aria_label=label,
        **attributes,
    )


def _marks(parent: ElementTree.Element, inside: bool) -> Iterator[Markup]:
    for element in parent:
        name = element.tag.rpartition("}")[2]
        gid = element.get("id", "")
        if name == "g" and gid and not re.search(r"_\d+$", gid):
            yield tag("g", *_marks(element, True), class_=gid)
        elif name == "g":
            yield from _marks(element, inside)
        elif inside and name == "defs":
            yield tag("defs", *_marks(element, True))
        elif inside and name == "path":
            yield tag("path", id=element.get("id"), d=_rounded(element.get("d", "")))
        elif inside and name == "use":
            target = element.get("{http://www.w3.org/1999/xlink}href")
            yield tag("use", href=target, **_place(element))
        elif inside and name == "text":
            anchor = re.search(r"text-anchor: (\w+)", element.get("style", ""))
            kept = {"text_anchor": anchor[1]} if anchor else {}
            yield tag("text", element.text or "", **_place(element), **kept)


def _place(element: ElementTree.Element) -> dict[str, str]:
    return {axis: _rounded(element.get(axis, "0")) for axis in ("x", "y")}


def _rounded(coordinates: str) -> str:
    short = re.sub(r"-?\d+\.\d+", lambda found: f"{round(float(found[0]), 1):g}", coordinates)
    return " ".join(short.split())


_WIDTH, _HEIGHT = 260.0, 168.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 40.0, 246.0, 8.0, 144.0  # room for half a label
_MOST_RINGS, _MOST_POINTS = 60, 400


def line_panel(
    title: str,
    lines: Sequence[Line],
    steps: tuple[float, float],
    words: str,
    *,
    from_zero: bool = False,
    counted: str = "steps",
) -> Markup:
    """Draws lines over the steps in a small panel; title and words are for screen readers.

    `steps` are the axis's ends; `counted` names them. Validations get rings while their number is
    small.
    """
    from matplotlib.ticker import MaxNLocator

    values = [value for _, curve in lines for _, value in curve]
    low, high = min([0.0, *values] if from_zero else values), max(values)
    if high - low < max(abs(low), abs(high), 1e-6) * 1e-6:  # an empty range gets a width
        margin = max(abs(high) * 0.1, 1e-6)
        low, high = max(low - margin, 0.0) if low >= 0 else low - margin, high + margin
    first, last = steps[0], max(steps[1], steps[0] + 1)
    round_steps = [1, 2, 2.5, 5, 10]
    across = MaxNLocator(4, steps=round_steps, integer=True).tick_values(first, last)
    up = MaxNLocator(4, steps=round_steps).tick_values(low, high)
    label = f"{title}, {counted} {first:.0f} to {last:.0f}. {words}"
    with drawing(_WIDTH, _HEIGHT, salt=label) as figure:
        box = (_LEFT, _HEIGHT - _BOTTOM, _RIGHT - _LEFT, _BOTTOM - _TOP)
        axes = _bare_axes(figure, *box)
        axes.set_xlim(first, last)
        axes.set_ylim(up[0], up[-1])
        axes.spines["bottom"].set(visible=True, gid="axis", zorder=0)
        steps_shown = [mark for mark in across if first <= mark <= last]
        axes.set_xticks(steps_shown, [f"{mark:.0f}" for mark in steps_shown])
        axes.set_yticks(up, _tick_labels(up))
        axes.tick_params(labelsize=11)
        axes.tick_params("x", length=4)
        axes.tick_params("y", length=0, pad=6)
        axes.grid(axis="y")
        for marks, kind in (
            (axes.get_ygridlines(), "grid"),
            (axes.get_xticklines(), "axis"),
            ([*axes.get_xticklabels(), *axes.get_yticklabels()], "tick"),
        ):
            for mark in marks:
                mark.set_gid(kind)
        for kind, curve in lines:
            steps_of, values_of = zip(*_thinned(curve), strict=True)
            axes.plot(steps_of, values_of, gid=f"line {kind}")
            if len(curve) == 1 or (kind == "validation" and len(curve) <= _MOST_RINGS):
                axes.plot(steps_of, values_of, "o", markersize=5.2, gid=f"ring {kind}")
        return _for_page(figure, label, class_="panel")


def moving_mean(curve: Sequence[Point]) -> Sequence[Point]:
    """Averages over a fortieth of the run on each side; returns few points unchanged."""
    reach = len(curve) // 40
    if reach < 1:
        return curve
    sums = [0.0, *accumulate(value / len(curve) for _, value in curve)]
    smooth = []
    for index, (step, _) in enumerate(curve):
        start, stop = max(0, index - reach), min(len(curve), index + reach + 1)
        smooth.append((step, (sums[stop] - sums[start]) / (stop - start) * len(curve)))
    return smooth


def _thinned(curve: Sequence[Point]) -> Sequence[Point]:
    """Keeps the lowest and the highest point of each stretch, so all spikes remain."""
    size = math.ceil(2 * len(curve) / _MOST_POINTS)
    if size <= 2:
        return curve
    kept: list[Point] = []
    for start in range(0, len(curve), size):
        by_value = sorted(curve[start : start + size], key=lambda point: point[1])
        kept += sorted({by_value[0], by_value[-1]})
    return kept


def _tick_labels(marks: Sequence[float]) -> list[str]:
    from matplotlib.ticker import ScalarFormatter

    largest = max(map(abs, marks))
    if not 1e-3 <= largest < 1e6:
        return [compact(mark, largest).replace(".0e", "e") for mark in marks]
    formatter = ScalarFormatter(useOffset=False, useMathText=False)
    formatter.set_scientific(False)
    return formatter.format_ticks(list(marks))


def _bare_axes(figure: Any, left: float, bottom: float, width: float, height: float) -> Any:
    """Adds axes without frame and ticks, at a place in pixels."""
    whole = figure.get_size_inches() * 72
    place = (left / whole[0], bottom / whole[1], width / whole[0], height / whole[1])
    axes = figure.add_axes(place)
    axes.spines[:].set_visible(False)
    axes.set(xticks=[], yticks=[])
    return axes


_MARKERS = {"benign": ("o", 6.4), "benign_cf": ("s", 5.4), "injection": ("^", 7.2)}
"""Form and size of each kind of prompt, in drawing order."""
_MAP_WIDTH, _MAP_HEIGHT, _MARGIN = 420.0, 340.0, 16.0
_MOST_TRIPLETS = 400


def representation_map(points: Sequence[Mapping[str, Any]], label: str) -> Markup | None:
    """Draws each point as its kind's disc, square or triangle; returns None without points.

    Points are `{"id", "member", "x", "y"}`. About 400 of each kind are drawn, evenly chosen.
    """
    kinds: dict[str, list[Point]] = {member: [] for member in _MARKERS}
    for point in points:
        x, y = number(point.get("x")), number(point.get("y"))
        if x is not None and y is not None and point.get("member") in kinds:
            kinds[point["member"]].append((x, y))
    if not any(kinds.values()):
        return None
    with drawing(_MAP_WIDTH, _MAP_HEIGHT, salt=label) as figure:
        inner = (_MAP_WIDTH - 2 * _MARGIN, _MAP_HEIGHT - 2 * _MARGIN)
        axes = _bare_axes(figure, _MARGIN, _MARGIN, *inner)
        axes.set_aspect("equal", adjustable="datalim")
        axes.margins(0)
        for member, places in kinds.items():
            if places:
                chosen = places[:: -(-len(places) // _MOST_TRIPLETS)]
                form, size = _MARKERS[member]
                where = zip(*chosen, strict=True)
                axes.plot(*where, form, markersize=size, gid=f"kind {member}", clip_on=False)
        return _for_page(figure, label, class_="map")


_LABEL, _COLUMN, _GAP, _ROW, _HEAD, _FOOT = 230.0, 190.0, 44.0, 46.0, 76.0, 34.0
_STYLE = Markup("""
.ablation{--ink:#1d2125;--soft:#667079;--rule:#dfe3e6;--mark:#0b5fa5;--paper:#fff;
font:13px system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
.ablation .paper{fill:var(--paper)}.ablation text{fill:var(--ink)}
.ablation .soft text{fill:var(--soft);font-size:11.5px}.ablation .head{font-weight:600}
.ablation .rule{stroke:var(--rule)}
.ablation .bar{stroke:var(--mark);stroke-width:3;stroke-linecap:round;opacity:.45}
.ablation .dot{fill:var(--mark)}
.ablation .seed{fill:var(--paper);stroke:var(--soft);stroke-width:1.2}
@media(prefers-color-scheme:dark){.ablation{--ink:#e6e9ec;--soft:#98a2ab;--rule:#343b41;
--mark:#6cb4f2;--paper:#14181b}}
""")


def ablation_plot(rows: Sequence[Mapping[str, Any]]) -> str:
    """Draws the metrics of `CORE` in columns, as an SVG document that may be part of a page.

    The filled diamond is the figure over all seeds on its 95% interval; each ring is one seed.

    Args:
        rows: `label`, `seeds` (one mapping of shares each), and each metric of `CORE` as
            `{"value", "n", "low", "high"}`.
    """
    shown = [
        metric
        for metric in CORE
        if any(Measured.of(row.get(metric.name)).value is not None for row in rows)
    ]
    width = _LABEL + len(shown) * (_COLUMN + _GAP) + 10
    table = _ROW * len(rows)
    height = _HEAD + table + _FOOT
    with drawing(width, height, salt="ablation") as figure:
        page = _bare_axes(figure, 0, 0, width, height)
        page.set(xlim=(0, width), ylim=(height, 0))
        for index, row in enumerate(rows):
            top = _HEAD + _ROW * index
            page.plot((10, width - 10), (top, top), gid="rule")
            label = spelled(row.get("label", ""))
            lines = textwrap.wrap(label, 32, max_lines=2, placeholder=" ...")
            for place, line in enumerate(lines):
                y = top + _ROW / 2 + 4.5 + 15 * (place - (len(lines) - 1) / 2)
                page.text(10, y, line, gid="label", parse_math=False)
        key = "diamond: all seeds, with its 95% interval; ring: one seed"
        page.text(10, height - 10, key, gid="soft")
        for column, metric in enumerate(shown):
            left = _LABEL + 10 + column * (_COLUMN + _GAP)
            page.text(left, 22, metric.label, gid="head")
            page.text(left, 39, f"{metric.better} is better", gid="soft")
            if rows:
                axes = _bare_axes(figure, left, _FOOT, _COLUMN, table)
                _ablation_column(axes, metric, rows)
        in_words = []
        for row in rows:
            said = [f"{m.label.lower()} {Measured.of(row.get(m.name)).percent}" for m in shown]
            in_words.append(f"{row.get('label', '')}: {', '.join(said)}")
        return str(
            _for_page(
                figure,
                "; ".join(in_words),
                tag("title", "Ablation: attack success and utility, with 95% intervals"),
                tag("style", _STYLE),
                tag("rect", class_="paper", width=f"{width:.0f}", height=f"{height:.0f}"),
                xmlns="http://www.w3.org/2000/svg",
                class_="ablation",
                width=f"{width:.0f}",
                height=f"{height:.0f}",
                style="max-width:100%;height:auto",
            )
        )


def _ablation_column(axes: Any, metric: Metric, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draws each row's figure of a metric, from the top; a row has height 1, a pixel 1 / _ROW."""
    axes.set(xlim=(0, 1), ylim=(len(rows), 0))
    for share in (0, 0.25, 0.5, 0.75, 1):
        axes.plot((share, share), (-12 / _ROW, len(rows)), gid="rule", clip_on=False)
    for share in (0.5, 1):
        axes.text(share, -16 / _ROW, f"{share:.0%}", ha="center", gid="soft")
    figures = [
        (Measured.of(row.get(metric.name)), i + 0.5 - 4 / _ROW) for i, row in enumerate(rows)
    ]
    seeds = [
        (value, index + 0.5 + 8 / _ROW)
        for index, row in enumerate(rows)
        for seed in row.get("seeds") or []
        if (value := number(seed.get(metric.name))) is not None
    ]
    dots = [(figure.value, y) for figure, y in figures if figure.value is not None]
    for figure, y in figures:
        if figure.low is not None and figure.high is not None:
            axes.plot((figure.low, figure.high), (y, y), gid="bar", clip_on=False)
    for gid, form, size, places in (("seed", "o", 6, seeds), ("dot", "D", 8.5, dots)):
        across, down = [x for x, _ in places], [y for _, y in places]
        axes.plot(across, down, form, markersize=size, gid=gid, clip_on=False)
    for figure, y in figures:
        if figure.value is None:
            continue
        ends = [end for end in (figure.low, figure.value, figure.high) if end is not None]
        before = figure.value >= 0.8  # no room on the right
        axes.annotate(
            figure.percent,
            (min(ends) if before else max(ends), y),
            xytext=(-9 if before else 9, -4),
            textcoords="offset pixels",
            ha="right" if before else "left",
            gid="soft",
        )


def interval_strip(entries: Sequence[tuple[str, Measured]]) -> Markup:
    """Draws each share as a dot on its interval, one below another, as wide as its container.

    `entries` are CSS classes with figures; `base` is a ring, any other a diamond. Screen readers
    skip the drawing, so the figures must be next to it in text.
    """

    def at(value: float) -> str:
        return f"{100 * min(max(value, 0), 1):.2f}%"

    height = 13 * len(entries) + 5
    parts = [
        tag("line", class_="grid", x1=f"{share}%", x2=f"{share}%", y1=0, y2=height)
        for share in (0, 25, 50, 75, 100)
    ]
    for row, (kind, figure) in enumerate(entries):
        if figure.value is None:
            continue
        y, x = 9 + 13 * row, at(figure.value)
        if figure.low is not None and figure.high is not None:
            ends = {"x1": at(figure.low), "x2": at(figure.high)}
            parts.append(tag("line", class_=f"bar {kind}", **ends, y1=y, y2=y))
        if kind == "base":
            parts.append(tag("circle", class_="dot base", cx=x, cy=y, r="4"))
        else:  # an inner picture, since percentages cannot place a path
            diamond = tag("path", class_=f"dot {kind}", d="M0-5.5 5.5 0 0 5.5-5.5 0z")
            parts.append(tag("svg", diamond, class_="mark", x=x, y=y))
    return tag("svg", *parts, class_="strip", width="100%", height=str(height), aria_hidden="true")
