"""The table of an ablation, for a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmcausal.metrics import CORE, of
from llmcausal.ui.console import one_line

NOTE = (
    "Mean over seeds with its 95% interval (bootstrap over prompts of each prompt's mean over "
    "seeds; Wilson's for one seed or where all answers agree), then each seed's value. Causal "
    "metrics, detection AUROC and perplexity are means over seeds; causal metrics of a projection "
    "and of a hidden state are not comparable."
)
Values = Mapping[str, Any]


def render_ablation(result: Values) -> RenderableType:
    """Returns the table, its note and, after a search, what was found.

    Args:
        result: `rows` and `search` as `assembly.ablation` returns them.
    """
    table = Table(
        title="Ablation",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    # The widths fit 80 columns: three intervals of 9, and what it takes to tell settings apart.
    longest = max(len(line) for row in result["rows"] for line in _label_lines(row))
    table.add_column("combination", overflow="fold", min_width=min(longest, 20))
    for metric in CORE:
        table.add_column(metric.short.replace(" ", "\n"), justify="right", min_width=9)
    table.add_column("prompts'\nvectors", justify="right", min_width=12)
    table.add_column("perplexity\nattacked", justify="right", min_width=10)
    for row in result["rows"]:
        cells = [
            "\n".join([*_label_lines(row), *_remarks(row)]),
            *("\n".join(_share(row, metric.name, 0)) for metric in CORE),
            "\n".join(_representation(row)),
            "\n".join([_number(row["perplexity"]), _number(row["perplexity_under_attack"])]),
        ]
        table.add_row(*(Text(cell) for cell in cells), end_section=True)
    parts: list[RenderableType] = [table, Text(_note(result["rows"]), style="dim")]
    parts += [Text(line) for line in _search(result)]
    return Group(*parts)


def ablation_markdown(result: Values) -> str:
    """Returns the same table as Markdown, one row a combination."""
    titles = [
        "combination",
        *(metric.label for metric in (*CORE, *of("causal"))),
        "measured on",
        "perplexity",
        "perplexity under attack",
        "val task loss",
    ]
    lines = [_line(titles), _line(["---", *["---:"] * (len(titles) - 1)])]
    for row in result["rows"]:
        causal = row["causal"]
        lines.append(
            _line(
                [
                    "; ".join([one_line(row["label"]), *_remarks(row)]),
                    *(" ".join(_share(row, metric.name, 1)) for metric in CORE),
                    *(_number(causal.get(metric.name), 3) for metric in of("causal")),
                    _measured_on(row) or "-",
                    _number(row["perplexity"]),
                    _number(row["perplexity_under_attack"]),
                    _number(_mean_validation(row, "val_task_loss"), 3),
                ]
            )
        )
    return "\n\n".join(["\n".join(lines), _note(result["rows"]), *_search(result)]) + "\n"


def _label_lines(row: Values) -> list[str]:
    return one_line(row["label"]).split(", ")


def _representation(row: Values) -> list[str]:
    causal = row["causal"]
    measured = [
        f"{metric.brief or metric.short} {_number(causal[metric.name], 3)}"
        for metric in of("causal")
        if causal.get(metric.name) is not None
    ]
    return [*measured, _measured_on(row)] if measured else ["-"]


def _share(row: Values, name: str, digits: int) -> list[str]:
    """Returns value, interval and, of several seeds, each one's value, all in percent."""
    figure = row[name]
    if figure["value"] is None:
        return ["-"]
    parts = [f"{figure['value']:.1%}"]
    if figure["low"] is not None:
        low, high = (f"{100 * figure[end]:.{digits}f}" for end in ("low", "high"))
        parts.append(f"[{low}, {high}]")
    seeds = [seed[name] for seed in row["seeds"] if seed[name] is not None]
    if len(seeds) > 1:
        parts.append(f"({' '.join(f'{100 * value:.0f}' for value in seeds)})")
    return parts


def _remarks(row: Values) -> list[str]:
    return [f"seed {failed['seed']} failed: loss not finite" for failed in row["failed"]]


def _measured_on(row: Values) -> str:
    return str(row["causal"].get("representation") or "")


def _mean_validation(row: Values, name: str) -> float | None:
    values = [seed.get("validation", {}).get(name) for seed in row["seeds"]]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _note(rows: Sequence[Values]) -> str:
    prompts = sorted({row[each.name]["n"] for row in rows for each in CORE if row[each.name]["n"]})
    counts = f"n = {' to '.join(str(n) for n in {prompts[0]: 0, prompts[-1]: 0})} prompts. "
    return (counts if prompts else "") + NOTE


def _search(result: Values) -> list[str]:
    search = result["search"]
    if not search:
        return []
    return [
        f"Search: {len(search['trials'])} trials, minimizing {search['objective']}. "
        f"Best: {one_line(search['best'])}"
    ]


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
