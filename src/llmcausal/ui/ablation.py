"""An ablation's table, for a terminal and as Markdown, and its drawing."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmcausal.metrics import BY_NAME, CORE, of
from llmcausal.ui.console import one_line
from llmcausal.ui.plots import Measured, number, tag

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


_LABEL, _COLUMN, _GAP, _ROW, _TOP = 230.0, 190.0, 44.0, 46.0, 76.0
_STYLE = Markup("""
.ablation{--ink:#1d2125;--soft:#667079;--rule:#dfe3e6;--mark:#0b5fa5;--paper:#fff;
font:13px system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
.ablation .paper{fill:var(--paper)}.ablation text{fill:var(--ink)}
.ablation .soft{fill:var(--soft);font-size:11.5px}.ablation .head{font-weight:600}
.ablation .grid{stroke:var(--rule)}.ablation .rule{stroke:var(--rule)}
.ablation .bar{stroke:var(--mark);stroke-width:3;stroke-linecap:round;opacity:.45}
.ablation .dot{fill:var(--mark)}
.ablation .seed{fill:var(--paper);stroke:var(--soft);stroke-width:1.2}
@media(prefers-color-scheme:dark){.ablation{--ink:#e6e9ec;--soft:#98a2ab;--rule:#343b41;
--mark:#6cb4f2;--paper:#14181b}}
""")


def ablation_plot(rows: Sequence[Mapping[str, Any]]) -> str:
    """Draws attack success, utility and, where given, utility under attack beside one another.

    The filled diamond is the figure over all seeds on its 95% interval, each ring one seed.

    Args:
        rows: `label`, `seeds` (one `{"attack_success_rate", "utility"}` of shares each), and
            `attack_success_rate`, `utility`, `utility_under_attack` as
            `{"value", "n", "low", "high"}`. Drawn in their order.

    Returns:
        A whole SVG document, which also stands inside an HTML page.
    """
    shown = [
        name
        for name in (metric.name for metric in CORE)
        if any(Measured.of(row.get(name)).value is not None for row in rows)
    ]
    width = _LABEL + len(shown) * (_COLUMN + _GAP) + 10
    height = _TOP + _ROW * len(rows) + 34
    parts = [
        tag("title", "Ablation: attack success and utility of each variant, with 95% intervals"),
        tag("style", _STYLE),
        tag("rect", class_="paper", width=width, height=height),
    ]
    for column, name in enumerate(shown):
        parts += _column_frame(name, _left(column), len(rows))
    for index, row in enumerate(rows):
        parts += _row(row, shown, _TOP + _ROW * index, width)
    key = "diamond: all seeds, with its 95% interval; ring: one seed"
    parts.append(tag("text", key, class_="soft", x=10.0, y=height - 10))
    return str(
        tag(
            "svg",
            *parts,
            xmlns="http://www.w3.org/2000/svg",
            class_="ablation",
            viewBox=f"0 0 {width:.0f} {height:.0f}",
            width=f"{width:.0f}",
            height=f"{height:.0f}",
            role="img",
            aria_label=_in_words(rows, shown),
            style="max-width:100%;height:auto",
        )
    )


def _left(column: int) -> float:
    return _LABEL + 10 + column * (_COLUMN + _GAP)


def _column_frame(name: str, left: float, count: int) -> list[Markup]:
    metric = BY_NAME[name]
    bottom = _TOP + _ROW * count
    parts = [
        tag("text", metric.label, class_="head", x=left, y=22.0),
        tag("text", f"{metric.better} is better", class_="soft", x=left, y=39.0),
    ]
    for share in (0, 25, 50, 75, 100):
        x = left + _COLUMN * share / 100
        parts.append(tag("line", class_="grid", x1=x, x2=x, y1=_TOP - 12, y2=bottom))
        if share % 50 == 0:
            label = f"{share}%"
            parts.append(
                tag("text", label, class_="soft", x=x, y=_TOP - 16, text_anchor="middle")
                if share
                else Markup("")
            )
    return parts


def _row(row: Mapping[str, Any], shown: Sequence[str], top: float, width: float) -> list[Markup]:
    middle = top + _ROW / 2
    parts = [tag("line", class_="rule", x1=10.0, x2=width - 10, y1=top, y2=top)]
    lines = textwrap.wrap(str(row.get("label", "")), 32, max_lines=2, placeholder=" ...") or [""]
    for index, line in enumerate(lines):
        y = middle + 4.5 + 15 * (index - (len(lines) - 1) / 2)
        parts.append(tag("text", line, x=10.0, y=y))
    for column, name in enumerate(shown):
        parts += _figure(row, name, _left(column), middle)
    return parts


def _figure(row: Mapping[str, Any], name: str, left: float, middle: float) -> list[Markup]:
    figure = Measured.of(row.get(name))

    def at(share: float) -> float:
        return left + _COLUMN * min(max(share, 0.0), 1.0)

    parts = []
    if figure.low is not None and figure.high is not None:
        low, high, y = at(figure.low), at(figure.high), middle - 4
        parts.append(tag("line", class_="bar", x1=low, x2=high, y1=y, y2=y))
    for seed in row.get("seeds") or []:
        value = number(seed.get(name))
        if value is not None:
            parts.append(tag("circle", class_="seed", cx=at(value), cy=middle + 8, r=3.0))
    if figure.value is not None:
        x, y = at(figure.value), middle - 4
        shape = f"M{x:.1f},{y - 6:.1f}l6,6-6,6-6-6z"
        text = figure.percent
        parts.append(tag("path", tag("title", text), class_="dot", d=shape))
        if figure.value < 0.8:
            end = at(figure.value if figure.high is None else figure.high) + 9
            anchor = "start"
        else:
            end = at(figure.value if figure.low is None else figure.low) - 9
            anchor = "end"
        parts.append(tag("text", text, class_="soft", x=end, y=y + 4, text_anchor=anchor))
    return parts


def _in_words(rows: Sequence[Mapping[str, Any]], shown: Sequence[str]) -> str:
    def told(row: Mapping[str, Any]) -> str:
        figures = ", ".join(
            f"{BY_NAME[name].label.lower()} {Measured.of(row.get(name)).percent}" for name in shown
        )
        return f"{row.get('label', '')}: {figures}"

    return "; ".join(map(told, rows))
