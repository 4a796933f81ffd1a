"""One page that sets several runs beside each other: figures, settings that differ, curves."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmcausal.errors import UsageError
from llmcausal.metrics import CORE
from llmcausal.ui.plots_curves import Line, collect, overlay_panel
from llmcausal.ui.plots_figures import Measured, number
from llmcausal.ui.report.loose import Object, as_object
from llmcausal.ui.report.page import save_page
from llmcausal.ui.report.run_files import RunFiles, read_run
from llmcausal.ui.report.training import Panel, figure_names, progress

MOST_RUNS = 8
"""As many as there are colours that can be told apart."""
_ABSENT = "not set"


def write_comparison(run_dirs: Sequence[Path], out: Path) -> Path:
    """Writes the page; the same input gives the same bytes.

    Args:
        run_dirs: Two to `MOST_RUNS` run directories, also of runs under way.
        out: The file.

    Returns:
        `out`.

    Raises:
        UsageError: If a directory is no run, is named twice, or there are too many.
        StorageError: If the disk refuses.
    """
    if len(run_dirs) > MOST_RUNS:
        raise UsageError(f"{len(run_dirs)} runs: at most {MOST_RUNS} can be told apart on one page")
    places = [folder.resolve() for folder in run_dirs]
    if twice := next((place for place in places if places.count(place) > 1), None):
        raise UsageError(f"{twice}: named twice; name each run once")
    runs = [read_run(folder) for folder in run_dirs]
    names = _names(places)
    return save_page(
        "comparison.html.jinja",
        out,
        title=" / ".join(names),
        runs=[
            {"name": name, "folder": str(place), "progress": progress(run.metrics_rows)}
            for name, place, run in zip(names, places, runs, strict=True)
        ],
        notes=[
            f"{name}: {note}"
            for name, run in zip(names, runs, strict=True)
            for note in [*run.notes, *_caveats(run)]
        ],
        figures=_figures(runs),
        settings=differing_settings([run.config_text for run in runs]),
        panels=_panels(runs),
    )


def differing_settings(config_texts: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Returns each setting whose value is not the same in all runs, with its value in each.

    Args:
        config_texts: A config.toml of each run; one that cannot be read has no settings.
    """
    flat = [_flat(text) for text in config_texts]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    rows = [(key, [settings.get(key, _ABSENT) for settings in flat]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _flat(text: str) -> dict[str, str]:
    try:
        settings = tomllib.loads(text)
    except (ValueError, RecursionError):
        return {}
    return dict(_leaves(settings, ""))


def _leaves(section: Mapping[str, Any], prefix: str) -> list[tuple[str, str]]:
    found = []
    for key, value in section.items():
        if isinstance(value, Mapping):
            found += _leaves(value, f"{prefix}{key}.")
        else:
            written = str(value).lower() if isinstance(value, bool) else str(value)
            found.append((prefix + key, written))
    return found


def _names(places: Sequence[Path]) -> list[str]:
    """Calls a run by its folder, with the parent before it where folders share a name."""
    names = [place.name for place in places]
    return [
        f"{place.parent.name}/{name}" if names.count(name) > 1 else name
        for place, name in zip(places, names, strict=True)
    ]


def _caveats(run: RunFiles) -> list[str]:
    return [] if run.result else ["not evaluated yet."]


def _figures(runs: Sequence[RunFiles]) -> list[dict[str, Any]]:
    tuned = [as_object((run.result or {}).get("tuned")) for run in runs]
    rows = []
    for metric in CORE:
        cells = [Measured.of(figures.get(metric.name)) for figures in tuned]
        if any(cell.value is not None for cell in cells):
            note = f"{metric.note}; {metric.better} is better"
            rows.append({"name": metric.label, "note": note, "cells": cells})
    return rows


def _panels(runs: Sequence[RunFiles]) -> list[Panel]:
    reached = [
        step
        for run in runs
        for row in run.metrics_rows
        if (step := number(row.get("step"))) is not None
    ]
    axis = (min(reached, default=0.0), max(reached, default=0.0))
    panels = []
    every_row: list[Object] = [row for run in runs for row in run.metrics_rows]
    for name in figure_names(every_row):
        title = name.replace("_", " ")
        curves = [collect(run.metrics_rows, name, title) for run in runs]
        for words, points in (
            ("", [curve.training for curve in curves]),
            (" in validation", [curve.validation for curve in curves]),
        ):
            lines = [Line(f"run-{index}", line) for index, line in enumerate(points) if line]
            if lines:
                panels.append(Panel(title + words, "", overlay_panel(title + words, lines, axis)))
    return panels
