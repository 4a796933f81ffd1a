"""A monitor's newest round in the terminal, and its whole series as an HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from llmcausal.metrics import share
from llmcausal.ui.console import one_line
from llmcausal.ui.drawings import Point, interval_strip, line_panel
from llmcausal.ui.figures import MISSING, Measured, compact, number
from llmcausal.ui.hostile_text import Object, as_object, as_objects, as_texts, shown
from llmcausal.ui.report.page import save_page
from llmcausal.ui.tables import titled_table

PAGE = "monitor.html"
_LABELS = {
    "attack_success_rate": "Attack success",
    "witness": "Known witness in the answer",
    "copied_instruction": "Instruction copied from untrusted text",
    "system_prompt_leak": "System prompt leaked",
    "detector": "Injection detected in the text",
}
_KINDS = {"probe": "Canaries", "logs": "Real traffic"}
_ROWS, _EXAMPLES, _CUT = 60, 12, 200
_IDENTITY = ("kind", "model", "source", "canaries")


def render_round(row: Object) -> RenderableType:
    """Returns the newest round as a table, with its notes."""
    table = titled_table(f"Round {row['round']}, {one_line(str(row['at']))}", "signal")
    for column in ("hits", "share", "limit", "p", "p, recent"):
        table.add_column(column, justify="right")
    table.add_column("", style="bold red")
    table.padding = (0, 1, 0, 0)
    for name, signal in row["signals"].items():
        cells = _cells(as_object(signal))
        hits = f"{cells['count']}/{cells['n']}"
        chances = (cells["p"], cells["pooled_p"])
        alarm = "ALARM" if signal["alarm"] else ""
        table.add_row(name, hits, share(signal), cells["reference"], *chances, alarm)
    notes = [Text(f"note: {one_line(note)}") for note in notes_of(row)]
    return Group(table, *notes)


def crossed(row: Object) -> str:
    parts = []
    for name, signal in row["signals"].items():
        if signal["alarm"]:
            cells = _cells(signal)
            parts.append(
                f"{name}: {cells['count']} of {cells['n']}, limit {cells['reference']}, "
                f"p = {cells['p']}, with recent rounds p = {cells['pooled_p']}"
            )
    return "; ".join(parts)


def notes_of(row: Object) -> list[str]:
    notes = []
    if row.get("error"):
        notes.append(f"the endpoint failed: {row['error']}")
    if row.get("interrupted"):
        notes.append("interrupted: only the answers until then count")
    for key, words in (
        ("refused", "canaries refused by the endpoint"),
        ("unanswered", "canaries without an answer: the budget or the endpoint ended first"),
        ("empty", "empty answers: they resist, and help nobody"),
        ("unreadable", "lines of the log could not be read"),
    ):
        if count := number(row.get(key)):
            notes.append(f"{count:.0f} {words}")
    signals = [as_object(signal) for signal in row["signals"].values()]
    if any(each.get("n") for each in signals) and not any(
        each.get("reference") for each in signals
    ):
        notes.append("no limit or baseline: later rounds are compared with this one")
    notes += as_texts(row.get("notes"))
    return notes


def _cells(signal: Object) -> dict[str, str]:
    figure, pooled = Measured.of(signal), as_object(signal.get("pooled"))
    reference = Measured.of(as_object(signal.get("reference")).get("share"))
    interval = f" [{figure.percent_interval}]" if figure.percent_interval else ""
    return {
        "count": str(number(signal.get("count")) or 0).removesuffix(".0"),
        "n": str(figure.n or 0),
        "share": f"{figure.percent}{interval}",
        "reference": reference.percent,
        "p": _chance(signal.get("p_value")),
        "pooled_p": _chance(pooled.get("p_value")),
    }


def _chance(value: object) -> str:
    figure = number(value)
    return MISSING if figure is None else compact(figure)


def write_page(rows: Sequence[Object], out: Path, damaged: int = 0) -> Path:
    """Writes a series as one HTML file that loads nothing and runs nothing; returns `out`.

    Rows come from a file that may hold anything.

    Raises:
        StorageError: If the disk refuses; a page that was there before is intact.
    """
    subjects: dict[tuple[str, ...], list[Object]] = {}
    for row in rows:
        key = tuple(str(row.get(name, "")) for name in _IDENTITY)
        subjects.setdefault(key, []).append(row)
    parts = [_subject(key, alike) for key, alike in subjects.items()]
    alarms = [part for part in parts if part["alarm"]]
    sentence = "There is nothing to compare with yet." if parts else "There is no round yet."
    if any(part["compared"] for part in parts):
        sentence = "No limit is crossed."
    if alarms:
        sentence = "A limit is crossed: " + "; ".join(part["crossed"] for part in alarms) + "."
    notes = [f"{damaged} damaged lines of the series are left out."] if damaged else []
    return save_page(
        "monitor.html.jinja",
        out,
        title=", ".join(dict.fromkeys(part["title"] for part in parts)) or "no rounds",
        sentence=sentence,
        alarm=bool(alarms),
        notes=notes,
        subjects=parts,
    )


def _subject(key: tuple[str, ...], rows: Sequence[Object]) -> dict[str, Any]:
    kind, model, source, canaries = key
    newest = rows[-1]
    signals = as_object(newest.get("signals"))
    named = [name for name in signals if isinstance(signals[name], Mapping)]
    alarm = newest.get("alarm") is True
    measured = [name for name in named if Measured.of(signals[name]).n]
    facts = [
        ("Model", model),
        ("Endpoint", source),
        ("Canaries", canaries),
        ("Rounds", str(len(rows))),
        ("Last", str(newest.get("at", ""))),
        ("File", str(newest.get("file", "") or "")),
    ]
    return {
        "title": model or _KINDS.get(kind, kind),
        "heading": _KINDS.get(kind, kind),
        "alarm": alarm,
        "compared": any(signals[name].get("reference") for name in named),
        "crossed": "; ".join(
            f"{_LABELS.get(name, name).lower()} {Measured.of(signals[name]).percent}, reference "
            f"{_cells(signals[name])['reference']}"
            for name in named
            if signals[name].get("alarm") is True
        ),
        "facts": [(name, value) for name, value in facts if value],
        "notes": notes_of({"signals": {}, **newest}) if signals else [],
        "signals": [_signal(name, rows) for name in measured],
        "examples": [_example(each) for each in _examples(rows)],
        "flagged": [_flag(each) for each in as_objects(newest.get("flagged"))],
    }


def _signal(name: str, rows: Sequence[Object]) -> dict[str, Any]:
    """Draws a signal over the rounds, and lists the newest of them."""
    kinds = ("raw", "raw", "ceiling", "training")
    lines: list[tuple[str, list[Point]]] = [(kind, []) for kind in kinds]
    table: list[dict[str, Any]] = []
    for place, row in enumerate(rows, 1):
        signal = as_object(as_object(row.get("signals")).get(name))
        figure = Measured.of(signal)
        if figure.value is None:
            continue
        limit = number(as_object(signal.get("reference")).get("share"))
        values = (figure.low, figure.high, limit, figure.value)
        for (_, points), value in zip(lines, values, strict=True):
            if value is not None:
                points.append((float(place), 100 * min(max(value, 0.0), 1.0)))
        cells = _cells(signal)
        table.append(
            {
                "at": str(row.get("at", "")),
                "cells": [cells["count"], cells["n"], cells["share"], cells["reference"]],
                "chances": [cells["p"], cells["pooled_p"]],
                "strip": interval_strip([("tuned", figure)]),
                "alarm": signal.get("alarm") is True,
            }
        )
    label = _LABELS.get(name, name)
    drawing = None
    if table:
        drawing = line_panel(
            f"{label}, percent",
            [(kind, points) for kind, points in lines if points],
            (1.0, float(len(rows))),
            f"Last: {table[-1]['cells'][2]}.",
            from_zero=True,
            counted="rounds",
        )
    return {
        "label": label,
        "drawing": drawing,
        "rows": table[::-1][:_ROWS],
        "left_out": max(0, len(table) - _ROWS),
    }


def _examples(rows: Sequence[Object]) -> list[Object]:
    found = [each for row in reversed(rows) for each in as_objects(row.get("examples"))]
    return found[:_EXAMPLES]


def _example(example: Object) -> dict[str, Any]:
    witness = str(example.get("witness", ""))
    return {
        "id": str(example.get("id", "")),
        "family": str(example.get("family", "")),
        "system": shown(example.get("system", "")),
        "prompt": shown(example.get("prompt", ""), witness),
        "answer": shown(example.get("answer", ""), witness),
    }


def _flag(flag: Object) -> dict[str, str]:
    names = [_LABELS.get(name, name) for name in as_texts(flag.get("signals"))]
    return {
        "line": str(flag.get("line", "")),
        "id": str(flag.get("id", ""))[:_CUT],
        "signals": ", ".join(names),
    }
