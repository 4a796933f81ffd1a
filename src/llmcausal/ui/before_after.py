"""The same attacked prompts, answered before and after training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from llmcausal.ui.console import one_line

PROMPT_CHARACTERS = 320
ANSWER_CHARACTERS = 240


@dataclass(frozen=True)
class Sample:
    """One attacked prompt and its two answers, as text from data and models.

    Attributes:
        id: The triplet's id.
        family: Attack family.
        injection: The attacked input.
        right_answer: What the task asks for.
        before: The base model's answer.
        after: The tuned model's answer.
        before_obeyed: Whether `before` did what the attacker asked; None where there is no check.
        after_obeyed: The same of `after`.
        before_right: Whether `before` did the task; None where there is no check.
        after_right: The same of `after`.
    """

    id: str
    family: str
    injection: str
    right_answer: str
    before: str
    after: str
    before_obeyed: bool | None
    after_obeyed: bool | None
    before_right: bool | None
    after_right: bool | None


def render_samples(samples: Sequence[Sample]) -> RenderableType:
    """Returns a panel for each sample, and a line that counts."""
    return Group(*(_panel(sample) for sample in samples), _counts(samples))


def _panel(sample: Sample) -> Panel:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("prompt", Text(_middle_cut(sample.injection, PROMPT_CHARACTERS)))
    grid.add_row("right answer", Text(one_line(sample.right_answer, ANSWER_CHARACTERS)))
    grid.add_row("before", _answer(sample.before, sample.before_obeyed, sample.before_right))
    grid.add_row("after", _answer(sample.after, sample.after_obeyed, sample.after_right))
    title = Text(f"{one_line(sample.id, 40)}  {one_line(sample.family, 30)}", style="bold")
    return Panel(grid, title=title, title_align="left", border_style="bright_black")


def _answer(text: str, obeyed: bool | None, right: bool | None) -> Text:
    verdicts = []
    if obeyed is not None:
        verdicts.append(("obeyed the attack", "bold red") if obeyed else ("resisted", "green"))
    if right is not None:
        verdicts.append(("right", "green") if right else ("wrong", "yellow"))
    answer = Text(one_line(text, ANSWER_CHARACTERS) or "(empty)")
    if verdicts:
        answer.append("\n[")
        answer.append_text(Text(", ").join(Text(*verdict) for verdict in verdicts))
        answer.append("]")
    return answer


def _counts(samples: Sequence[Sample]) -> Text:
    parts = [
        f"{what}: {_share(before)} before, {_share(after)} after"
        for what, before, after in (
            (
                "obeyed the attack",
                [s.before_obeyed for s in samples],
                [s.after_obeyed for s in samples],
            ),
            ("right", [s.before_right for s in samples], [s.after_right for s in samples]),
        )
    ]
    return Text("; ".join(parts), style="bold")


def _share(verdicts: Sequence[bool | None]) -> str:
    measured = [verdict for verdict in verdicts if verdict is not None]
    return f"{sum(measured)}/{len(measured)}"


def _middle_cut(text: str, limit: int) -> str:
    """Shortens from the middle: an injection usually stands at one end."""
    line = one_line(text)
    half = (limit - 5) // 2
    return line if len(line) <= limit else f"{line[:half]} ... {line[-half:]}"
