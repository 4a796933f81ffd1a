"""The output of `data`: tables, and a page of histograms."""

from __future__ import annotations

import html
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmcausal.data.quality import Finding, Level
from llmcausal.data.summary import DatasetSummary, Histogram
from llmcausal.errors import writing
from llmcausal.storage import replace_file
from llmcausal.ui.console import ProgressLine, clean, one_line
from llmcausal.ui.drawings import drawing, picture

SHOWN: Mapping[Level, int] = {"error": 50, "warning": 10, "note": 3}
"""Findings of one kind that are shown; the others are counted."""
COUNTS = {
    "category": "categories",
    "attack family": "families",
    "kind of goal": "goal_kinds",
    "position": "positions",
    "difficulty": "difficulties",
    "novelty": "novelties",
}
"""Each count's title and name in a `DatasetSummary`."""
PATIENCE_SECONDS = 2.0
_BAR_WIDTH = 40


class LateProgress:
    """Shows the progress of each step that takes longer than `PATIENCE_SECONDS`."""

    def __init__(self) -> None:
        self._what = ""
        self._started = 0.0
        self._line = ProgressLine("")

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            self._what, self._started = what, time.monotonic()
            self._line = ProgressLine(clean(what))
        if time.monotonic() - self._started > PATIENCE_SECONDS:
            self._line(done, total)


def finding_lines(findings: Sequence[Finding], level: Level) -> Iterator[str]:
    """Yields a level's findings, kind by kind, as `file:line: field: reason`."""
    chosen = [finding for finding in findings if finding.level == level]
    for (file, rule), number in Counter((f.file, f.rule) for f in chosen).items():
        same = [finding for finding in chosen if (finding.file, finding.rule) == (file, rule)]
        for finding in same[: SHOWN[level]]:
            yield f"{level}: {clean(str(finding))}"
        if number > SHOWN[level]:
            named = rule.replace("_", " ")
            yield f"{level}: {clean(file)}: {number - SHOWN[level]} more of this kind ({named})"


def verdict(findings: Sequence[Finding], file: str, count: int) -> str:
    """Returns a file's number of triplets and defects in one line."""
    levels = Counter(finding.level for finding in findings if finding.file == file)
    if not levels:
        return f"{clean(file)}: {count} triplets, no defect"
    numbers = [
        f"{levels[level]} {level}{'' if levels[level] == 1 else 's'}"
        for level in SHOWN
        if levels[level]
    ]
    return f"{clean(file)}: {count} sound triplets, {', '.join(numbers)}"


def render_summary(summary: DatasetSummary, file: str) -> RenderableType:
    heading = (
        f"{clean(file)}: {summary.count} triplets, {summary.checked} with an answer check, "
        f"{summary.witnessed} with an attack witness"
    )
    parts: list[RenderableType] = [Text(heading)]
    for title, name in COUNTS.items():
        table = Table(title, "triplets")
        for value, number in getattr(summary, name).items():
            table.add_row(Text(one_line(value, 60) or "(none)"), str(number))
        parts.append(table)
    table = Table("characters", "shortest", "median", "longest")
    for name, lengths in summary.lengths.items():
        table.add_row(name, str(lengths.shortest), str(lengths.median), str(lengths.longest))
    parts.append(table)
    parts += [_histogram(name, histogram) for name, histogram in summary.histograms.items()]
    return Group(*parts)


def _histogram(name: str, histogram: Histogram) -> Table:
    table = Table(f"characters of {name}", "triplets", box=None)
    most = max(histogram.counts)
    for (low, end), number in zip(pairwise(histogram.edges), histogram.counts, strict=True):
        bar = "#" * (-(-number * _BAR_WIDTH // most) if most else 0)
        table.add_row(f"{low} to {max(low, end - 1)}", f"{bar} {number}")
    return table


PLOT_SUFFIXES = (".html", ".svg")
MAX_BARS = 30
_BAR = "#3b6ea5"
_COLUMNS = 3


def plot_summary(summary: DatasetSummary, title: str, path: Path) -> None:
    """Draws counts and lengths as `.svg` or `.html`; raises a StorageError if the disk refuses."""
    drawn = _svg(summary)
    if path.suffix.lower() == ".html":
        name = html.escape(f"{one_line(title, 200)}: {summary.count} triplets")
        drawn = (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>\n'
            "<style>body{font-family:sans-serif;margin:1.5rem;background:#fff;color:#222}"
            "svg{max-width:100%;height:auto}</style></head>\n"
            f"<body><h1>{name}</h1>\n{drawn}\n</body></html>\n"
        )
    with writing(path):
        replace_file(path, [drawn.encode()])


def _svg(summary: DatasetSummary) -> str:
    drawn = len(COUNTS) + len(summary.histograms)
    rows = -(-drawn // _COLUMNS)
    tallest = max(len(getattr(summary, name)) for name in COUNTS.values())
    height = 2.2 + 0.16 * min(tallest, MAX_BARS)
    with drawing(13 * 72, height * rows * 72, layout="constrained") as figure:
        axes = list(figure.subplots(rows, _COLUMNS).flat)
        for axis, (title, name) in zip(axes, COUNTS.items(), strict=False):
            _bars(axis, title, getattr(summary, name))
        for axis, (name, histogram) in zip(
            axes[len(COUNTS) :], summary.histograms.items(), strict=False
        ):
            edges = histogram.edges
            widths = [high - low for low, high in pairwise(edges)]
            axis.bar(edges[:-1], histogram.counts, widths, align="edge", color=_BAR, ec="white")
            axis.set_title(f"length of {name}, characters")
        for axis in axes[drawn:]:
            axis.set_axis_off()
        text = picture(figure).decode()
    return text[text.index("<svg") :]


def _bars(axis: Any, title: str, counts: Mapping[str, int]) -> None:
    rows = [(one_line(name, 30) or "(none)", number) for name, number in counts.items()]
    if len(rows) > MAX_BARS:
        rest = sum(number for _, number in rows[MAX_BARS - 1 :])
        rows = [*rows[: MAX_BARS - 1], (f"{len(rows) - MAX_BARS + 1} others", rest)]
    places = range(len(rows))
    axis.barh(places, [number for _, number in rows], color=_BAR)
    labels = [name for name, _ in rows]
    axis.set_yticks(places, labels, parse_math=False)
    axis.invert_yaxis()
    axis.set_title(title)
