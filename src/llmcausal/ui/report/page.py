"""Writes the reports: HTML files on one or several runs, without scripts or external parts."""

from __future__ import annotations

import functools
import shlex
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from llmcausal.errors import UsageError, writing
from llmcausal.metrics import CORE
from llmcausal.profile import flatten
from llmcausal.storage import replace_file
from llmcausal.ui.drawings import line_panel, moving_mean
from llmcausal.ui.figures import Measured
from llmcausal.ui.hostile_text import Object, as_object, as_objects, as_texts, shown, spelled
from llmcausal.ui.report import sections
from llmcausal.ui.report.run_files import RunFiles, read_run

REPORT = "report.html"
MOST_RUNS = 8
"""The number of distinguishable colors."""
_SKIPPED_SHOWN = 100
_ABSENT = "not set"


def write_run_report(
    run_dir: Path, out: Path | None = None, evaluation: Path | None = None
) -> Path:
    """Writes the report of a run, which may still be training; `evaluation` is as in `read_run`.

    Raises:
        UsageError: If the directory is not a run.
        StorageError: If the write fails.
    """
    run = read_run(run_dir, evaluation)
    return write_report(run, out or run_dir / REPORT, title=run_dir.resolve().name)


def write_report(run: RunFiles, out: Path, *, title: str) -> Path:
    """Writes all that is known about a run as one HTML file; returns `out`.

    The same input gives the same bytes. Text from data and models is escaped, the page has no
    script, and its policy forbids everything except its own style.

    Raises:
        StorageError: If the write fails; an existing report is intact.
    """
    result = run.result or {}
    base = as_object(result.get("base"))
    skipped = as_objects(result.get("skipped"))
    return save_page(
        "page.html.jinja",
        out,
        title=title,
        notes=[*run.notes, *as_texts(result.get("notes"))],
        summary=_summary(run.result),
        evaluation=sections.evaluation(result) if result else None,
        training=sections.charts(run.metrics_rows),
        groups=sections.choose_examples(
            as_objects(result.get("generations")), sections.model_named(base)
        ),
        skipped={
            "total": len(skipped),
            "shown": [
                (str(item.get("id", "")), str(item.get("reason", "")))
                for item in skipped[:_SKIPPED_SHOWN]
            ],
        },
        reproduction=_reproduction(result, run.config_text, run.environment or {}),
    )


def write_comparison(run_dirs: Sequence[Path], out: Path) -> Path:
    """Writes a page on two to `MOST_RUNS` runs; the same input gives the same bytes.

    Raises:
        UsageError: If a directory is not a run or appears twice, or there are too many.
        StorageError: If the write fails.
    """
    if len(run_dirs) > MOST_RUNS:
        raise UsageError(f"{len(run_dirs)} runs: at most {MOST_RUNS} fit on one page")
    places = [folder.resolve() for folder in run_dirs]
    if twice := next((place for place in places if places.count(place) > 1), None):
        raise UsageError(f"{twice}: named twice; name each run once")
    runs = [read_run(folder) for folder in run_dirs]
    names = _names(places)
    tuned = [as_object((run.result or {}).get("tuned")) for run in runs]
    cells = [(metric, [Measured.of(each.get(metric.name)) for each in tuned]) for metric in CORE]
    return save_page(
        "comparison.html.jinja",
        out,
        title=" / ".join(names),
        runs=[
            {"name": name, "folder": str(place), "progress": sections.progress(run.metrics_rows)}
            for name, place, run in zip(names, places, runs, strict=True)
        ],
        notes=[
            f"{name}: {note}"
            for name, run in zip(names, runs, strict=True)
            for note in [*run.notes, *([] if run.result else ["not evaluated yet."])]
        ],
        figures=[
            {"metric": metric, "cells": figures}
            for metric, figures in cells
            if any(figure.value is not None for figure in figures)
        ],
        settings=differing_settings([run.config_text for run in runs]),
        panels=_overlays([run.metrics_rows for run in runs]),
    )


def save_page(template: str, out: Path, **values: Any) -> Path:
    """Fills a template, which escapes all text except `Markup`, and replaces the file."""
    page = _templates().get_template(template).render(**values)
    with writing(out, "the report "):
        out.parent.mkdir(parents=True, exist_ok=True)
        replace_file(out, [page.encode("utf-8")])
    return out


@functools.cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("llmcausal.ui.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_spelled_out,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _spelled_out(value: object) -> object:
    """Spells out deceptive characters in all text on the page, also in attributes and its title."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else spelled(value)


def _summary(result: Object | None) -> dict[str, Any]:
    if result is None:
        sentence = "Nothing has been evaluated yet."
        return {"sentence": sentence, "details": [], "caveats": [], "facts": []}
    tuned, base = as_object(result.get("tuned")), as_object(result.get("base"))
    environment = as_object(result.get("environment"))
    facts = [
        ("Suite", result.get("suite")),
        ("Checkpoint", result.get("checkpoint")),
        ("Endpoint", _deployed(result.get("endpoint"))),
        ("Baseline endpoint", _deployed(result.get("baseline_endpoint"))),
        ("Evaluated", environment.get("date")),
        ("On", environment.get("gpu") or environment.get("processor")),
    ]
    return {
        "sentence": sections.reading(tuned, base),
        "details": sections.details(tuned, as_object(result.get("difference"))),
        "caveats": as_texts(result.get("caveats")),
        "facts": [(name, str(value)) for name, value in facts if value],
    }


def _deployed(part: object) -> str:
    facts = as_object(part)
    return f"{facts.get('model')} at {facts.get('url')}" if facts else ""


def _reproduction(result: Object, config_text: str, environment: Object) -> dict[str, Any]:
    evaluated = as_object(result.get("environment"))
    commands = [
        ("Training", environment.get("command")),
        ("Evaluation", result.get("command") or evaluated.get("command")),
    ]
    machines = [("Training", environment), ("Evaluation", evaluated)]
    return {
        "commands": [
            (name, shown(shlex.join(map(str, words)) if isinstance(words, list) else words))
            for name, words in commands
            if words
        ],
        "config": shown(config_text, whole=True) if config_text else None,
        "machines": [(name, _machine(facts)) for name, facts in machines if facts],
    }


def _machine(environment: Object) -> list[tuple[str, str]]:
    facts = [
        (name.replace("_", " "), str(value))
        for name, value in environment.items()
        if name not in ("packages", "command") and value is not None
    ]
    versions = as_object(environment.get("packages")).items()
    return [*facts, *((str(name), str(value)) for name, value in versions)]


def differing_settings(config_texts: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Returns the settings that differ between runs, each with all runs' values.

    An unreadable config.toml has no settings.
    """
    flat = [_flat(text) for text in config_texts]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    rows = [(key, [settings.get(key, _ABSENT) for settings in flat]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _flat(text: str) -> dict[str, str]:
    try:
        settings = flatten(tomllib.loads(text))
    except (ValueError, RecursionError):
        return {}
    return {
        key: str(value).lower() if isinstance(value, bool) else str(value)
        for key, value in settings.items()
    }


def _names(places: Sequence[Path]) -> list[str]:
    """Names runs by their folders; equal names get their parent's name in front."""
    names = [place.name for place in places]
    return [
        f"{place.parent.name}/{name}" if names.count(name) > 1 else name
        for place, name in zip(places, names, strict=True)
    ]


def _overlays(runs: Sequence[sections.Rows]) -> list[sections.Panel]:
    """Draws each figure of all runs in one panel, as moving means."""
    every_row = [row for rows in runs for row in rows]
    axis = sections.step_axis(every_row)
    panels: list[sections.Panel] = []
    for name in sections.figure_names(every_row):
        for key, words in ((name, ""), (f"val_{name}", " in validation")):
            curves = [moving_mean(sections.points(rows, key)) for rows in runs]
            lines = [(f"run-{index}", curve) for index, curve in enumerate(curves) if curve]
            if lines:
                title = name.replace("_", " ") + words
                drawn = line_panel(title, lines, axis, f"{len(lines)} runs.")
                panels.append({"title": title, "drawing": drawn})
    return panels
