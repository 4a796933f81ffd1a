"""Results of benchmarks as SVG pictures; equal results make equal pictures."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from benchmarks.tables import Result
from llmcausal.ui.drawings import drawing
from llmcausal.ui.drawings import picture as figure_file

WIDTH = 8 * 72
_LOOK: Mapping[str, Any] = {"font": 10, "layout": "constrained"}


def bars(names: Sequence[str], samples: Sequence[Sequence[float]], unit: str) -> str:
    """Draws medians with their extremes."""
    middle = [statistics.median(each) for each in samples]
    reach = [
        [m - min(each) for m, each in zip(middle, samples, strict=True)],
        [max(each) - m for m, each in zip(middle, samples, strict=True)],
    ]
    with drawing(WIDTH, 72 * (0.7 + 0.3 * len(names)), **_LOOK) as figure:
        axis = figure.subplots()
        axis.barh(range(len(names)), middle, xerr=reach, color="#3f51b5", ecolor="#888")
        axis.set_yticks(range(len(names)), names)
        axis.invert_yaxis()
        axis.set_xlim(left=0)
        axis.set_xlabel(unit)
        return _svg(figure)


def growth(rows: Sequence[dict[str, Any]]) -> str:
    """Draws time and memory of each variant along each axis."""
    axes = list(dict.fromkeys(row["axis"] for row in rows))
    kinds = {
        "seconds per triplet": lambda row: statistics.median(row["samples"]),
        "MiB": lambda row: row["allocated_peak_bytes"] / 2**20,
    }
    with drawing(WIDTH, 72 * 2.4 * len(axes), **_LOOK) as figure:
        grid = figure.subplots(len(axes), 2, squeeze=False)
        for line, name in zip(grid, axes, strict=True):
            chosen = [row for row in rows if row["axis"] == name]
            for place, (unit, value) in zip(line, kinds.items(), strict=True):
                for variant in dict.fromkeys(row["variant"] for row in chosen):
                    points = sorted(
                        (row["value"], value(row)) for row in chosen if row["variant"] == variant
                    )
                    place.plot(*zip(*points, strict=True), marker="o", label=variant)
                place.set_xlabel(name)
                place.set_ylabel(unit)
                place.set_xlim(left=0)
                place.set_ylim(bottom=0)
                place.locator_params(axis="x", nbins=5)
        grid[0][0].legend(fontsize="small")
        return _svg(figure)


def shares(groups: Mapping[str, Mapping[str, float]], what: str) -> str:
    """Draws a group of bars for each suite, one bar a method."""
    methods = list(dict.fromkeys(name for group in groups.values() for name in group))
    height = 0.8 / len(methods)
    inches = 0.8 + 0.22 * len(methods) * len(groups)
    with drawing(WIDTH, 72 * inches, **_LOOK) as figure:
        axis = figure.subplots()
        for number, method in enumerate(methods):
            places = [
                row + number * height for row, of in enumerate(groups.values()) if method in of
            ]
            values = [100 * of[method] for of in groups.values() if method in of]
            axis.barh(places, values, height, label=method)
        middle = 0.4 - height / 2
        axis.set_yticks([row + middle for row in range(len(groups))], list(groups))
        axis.invert_yaxis()
        axis.set_xlim(left=0)
        axis.set_xlabel(f"{what}, %")
        axis.legend(fontsize="small")
        return _svg(figure)


def _svg(figure: Any) -> str:
    return "\n".join(map(str.rstrip, figure_file(figure).decode().splitlines())) + "\n"


def picture(name: str, result: Result) -> str | None:
    """Draws the picture of a result, if it has one."""
    if name == "startup":
        rows = [row for row in result["rows"] if "samples" in row]
        return bars([r["command"] for r in rows], [r["samples"] for r in rows], "seconds")
    if name == "data":
        rows = [row for row in result["rows"] if "per_second" in row]
        return bars([r["variant"] for r in rows], [r["per_second"] for r in rows], "triplets/s")
    if name == "eval":
        rates = {
            variant: [result["prompts"] / sample for sample in samples]
            for variant, samples in result["samples_seconds"].items()
        }
        return bars(list(rates), list(rates.values()), "answers/s")
    if name == "step_growth":
        return growth([row for row in result["rows"] if "samples" in row])
    if name.startswith("step_peers"):
        found = sorted(result["comparisons"], key=itemgetter("length", "share"))
        names = [f"{row['length']} tokens, {row['share']:.0%} shared" for row in found]
        rates = [[row["fastest"]["times_faster"]] for row in found]
        return bars(names, rates, "times as fast as the fastest other")
    return None
