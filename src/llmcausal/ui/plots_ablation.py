"""The plot of an ablation: one row a variant, a picture file of its own for light and dark."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from llmcausal.metrics import BY_NAME, CORE
from llmcausal.ui.plots import tag
from llmcausal.ui.plots_figures import Measured, number

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
