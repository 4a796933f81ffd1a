"""Attacked prompts, answered before and after training: those that tell most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from llmcausal.ui.console import one_line

PROMPT_CHARACTERS = 240
ANSWER_CHARACTERS = 160

Row = Mapping[str, Any]


def render_examples(rows: Sequence[Row]) -> RenderableType:
    """Returns an attack that training cured, and one that still works, each if there is one.

    Without either it is the first attacked prompt.

    Args:
        rows: As in generations.jsonl. Texts may be anyone's, and stay text.
    """
    attacked = [row for row in rows if row["member"] == "injection"]
    cured = [row for row in attacked if row["base_obeyed"] and row["obeyed"] is False]
    works = [row for row in attacked if row["obeyed"]]
    shown = []
    if cured:
        shown.append(_panel(cured[0], f"obeyed before, resisted after: 1 of {len(cured)}"))
    if works:
        shown.append(_panel(works[0], f"obeyed after training: 1 of {len(works)}"))
    if not shown and attacked:
        shown.append(_panel(attacked[0], "an attacked prompt"))
    return Group(*shown)


def _panel(row: Row, title: str) -> Panel:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("prompt", Text(_middle_cut(row["prompt"], PROMPT_CHARACTERS)))
    if row["expected"]:
        grid.add_row("right answer", Text(one_line(row["expected"], ANSWER_CHARACTERS)))
    if row["base_answer"] is not None:
        before = _answer(row["base_answer"], row["base_obeyed"], row["base_right"])
        grid.add_row("before", before)
    grid.add_row("after", _answer(row["answer"], row["obeyed"], row["right"]))
    named = f"{title} ({one_line(row['family'], 30)})" if row["family"] else title
    return Panel(grid, title=Text(named), title_align="left", border_style="bright_black")


def _answer(text: str, obeyed: bool | None, right: bool | None) -> Text:
    verdicts = []
    if obeyed is not None:
        verdicts.append(("obeyed the attack", "bold red") if obeyed else ("resisted", "green"))
    if right is not None:
        verdicts.append(("right", "green") if right else ("wrong", "yellow"))
    answer = Text(one_line(text, ANSWER_CHARACTERS) or "(empty)")
    if verdicts:
        answer.append(" [")
        answer.append_text(Text(", ").join(Text(*verdict) for verdict in verdicts))
        answer.append("]")
    return answer


def _middle_cut(text: str, limit: int) -> str:
    """Shortens from the middle: an injection usually stands at one end."""
    line = one_line(text)
    half = (limit - 5) // 2
    return line if len(line) <= limit else f"{line[:half]} ... {line[-half:]}"
