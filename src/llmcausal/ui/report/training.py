"""The course of the training, from metrics.jsonl."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from llmcausal.launched import MEMORY_OF_PROCESS
from llmcausal.ui.figures import (
    CAUSAL_METRICS,
    LOSS_TERMS,
    PROBE_METRICS,
    duration,
    tokens_per_second,
)
from llmcausal.ui.plots import compact, number
from llmcausal.ui.plots_curves import Curve, collect, curve_panel, points
from llmcausal.ui.report.hostile_text import as_object

Rows = Sequence[Mapping[str, Any]]

_NOT_DRAWN = frozenset({"step", "epoch", "tokens", "seconds", "memory_bytes", "memory_peak_bytes"})
_TABLE_ROWS = 40


@dataclass(frozen=True)
class Panel:
    """One small chart, and its newest values in words."""

    title: str
    last: str
    drawing: Markup


def charts(rows: Rows) -> dict[str, Any]:
    """Returns the panels by subject, a table of the validations, and what went wrong."""
    names = figure_names(rows)
    learning = [name for name in names if name in LOSS_TERMS or name in CAUSAL_METRICS]
    rest = [name for name in names if name not in learning]
    reached = [step for row in rows if (step := number(row.get("step"))) is not None]
    axis = (min(reached, default=0.0), max(reached, default=0.0))
    return {
        "progress": progress(rows),
        "learning": _panels((collect(rows, name, _title(name)) for name in learning), axis),
        "other": _panels((collect(rows, name, _title(name)) for name in rest), axis),
        "machine": _panels(_machine(rows), axis, from_zero=True),
        "table": _validations(rows),
        "odd": _odd(rows),
    }


def progress(rows: Rows) -> str:
    """Says how far the training has come; empty without a row."""
    steps = [row for row in rows if number(row.get("step"))]
    if not steps:
        return ""
    seconds = sum(number(row.get("seconds")) or 0.0 for row in steps)
    last = steps[-1]
    epoch = number(last.get("epoch"))
    reached = f", epoch {epoch:.2f}" if epoch is not None else ""
    return f"Training is logged up to step {last['step']}{reached}: {duration(seconds)} in steps."


def figure_names(rows: Rows) -> list[str]:
    """Lists every figure once: losses first, then causal metrics, the probe's, and all others."""
    found: dict[str, None] = dict.fromkeys([*LOSS_TERMS, *CAUSAL_METRICS, *PROBE_METRICS])
    present = set()
    for row in rows:
        for key, value in row.items():
            if number(value) is None:
                continue
            name = key.removeprefix("val_")
            # The running mean of a figure that is drawn with its own.
            if (
                name not in _NOT_DRAWN
                and not key.startswith(MEMORY_OF_PROCESS)
                and not (name.endswith("_mean") and name[:-5] in row)
            ):
                found.setdefault(name)
                present.add(name)
    return [name for name in found if name in present]


def _title(name: str) -> str:
    return name.replace("_", " ")


def _panels(
    curves: Iterable[Curve], axis: tuple[float, float], from_zero: bool = False
) -> list[Panel]:
    return [
        Panel(curve.title, curve.last, curve_panel(curve, axis, from_zero=from_zero))
        for curve in curves
        if curve.training or curve.validation
    ]


def _machine(rows: Rows) -> list[Curve]:
    speeds = [
        {**row, "speed": tokens_per_second(row.get("tokens"), row.get("seconds"))} for row in rows
    ]
    others = sorted({key for row in rows for key in row if key.startswith(MEMORY_OF_PROCESS)})
    return [
        Curve(
            "memory in use",
            "GiB",
            points(rows, "memory_bytes", 2**30),
            ceiling=points(rows, "memory_peak_bytes", 2**30),
        ),
        *(
            Curve(
                _title(f"memory {key.removeprefix('memory_bytes_')}"),
                "GiB",
                points(rows, key, 2**30),
            )
            for key in others
        ),
        Curve("time per step", "s", points(rows, "seconds")),
        Curve("tokens per second", "", points(speeds, "speed")),
    ]


def _validations(rows: Rows) -> dict[str, Any] | None:
    validated = [row for row in rows if any(str(key).startswith("val_") for key in row)]
    if not validated:
        return None
    names = [
        name
        for name in dict.fromkeys(key for row in validated for key in row)
        if name.startswith("val_")
    ]
    stride = -(-len(validated) // _TABLE_ROWS)
    chosen = validated[::-stride][::-1]  # the newest is always there
    return {
        "names": [_title(name.removeprefix("val_")) for name in names],
        "rows": [
            (str(row.get("step")), [_cell(row.get(name)) for name in names]) for row in chosen
        ],
        "left_out": len(validated) - len(chosen),
    }


def _cell(value: object) -> str:
    figure = number(value)
    return "" if figure is None else compact(figure)


def _odd(rows: Rows) -> list[str]:
    """Lists steps with figures that are not finite, which a curve cannot show."""
    told = [
        f"step {row.get('step')}: {', '.join(map(str, row['non_finite']))}"
        for row in rows
        if as_object(row.get("non_finite"))
    ]
    return [*told[:10], f"and {len(told) - 10} more"] if len(told) > 10 else told
