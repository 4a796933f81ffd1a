"""The screens of `try`: both models' answers, and a loop that asks for tasks and texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from llmcausal.errors import LlmcausalError
from llmcausal.ui.console import clean, console, one_line, print_error, status
from llmcausal.ui.tables import titled_table

Ask = Callable[[str], str]
"""Shows a prompt and returns a line of input; raises EOFError at the input's end."""
END = "."
_CHOICES = "a attacks this text, t another text, s another task, q ends: "
_NAMES = {"base": "untouched", "tuned": "tuned"}


class Tried(Protocol):
    """The models; see `llmcausal.assembly.trying.Trials`."""

    def answers(self, system: str, texts: list[str]) -> dict[str, list[str]]: ...

    def detected(self, system: str, texts: list[str]) -> dict[str, Any]: ...

    def attacked(self, system: str, text: str) -> dict[str, Any]: ...


def render_answers(answers: Mapping[str, str]) -> RenderableType:
    panels = [
        Panel(Text(clean(answers[side]) or "(an empty answer)"), title=name, title_align="left")
        for side, name in _NAMES.items()
    ]
    return Columns(panels, equal=True, expand=True)


def render_detector(found: Mapping[str, Any]) -> RenderableType:
    """Returns what the detector says of texts, or why it is off."""
    if "off" in found:
        return Text(f"detector off: {one_line(found['off'])}", style="dim")
    scored = [each for each in found["texts"] if each is not None]
    if not scored:
        return Text("detector: the text is longer than those of the training", style="dim")
    flagged = sum(each["flagged"] for each in scored)
    if len(found["texts"]) > 1:
        return Text(f"detector flags {flagged} of {len(scored)}")
    score, threshold = scored[0]["score"], scored[0]["threshold"]
    said = "looks injected" if flagged else "looks harmless"
    return Text(f"detector: {said} ({score:.2f}, flagged above {threshold:.2f})")


def render_attacks(found: Mapping[str, Any]) -> RenderableType:
    rows = found["attacks"]
    table = titled_table("Attacks on this text")
    for column in ("attack", "position", *_NAMES.values()):
        table.add_column(column, no_wrap=column in ("attack", "position"))
    for row in rows:
        table.add_row(row["family"], row["position"], *(_answer(row[side]) for side in _NAMES))
    counts = ", ".join(
        f"{name} obeys {sum(row[side]['obeyed'] for row in rows)} of {len(rows)}"
        for side, name in _NAMES.items()
    )
    goal = f"the attacker wants: {one_line(found['goal'], 200)}"
    parts: list[RenderableType] = [Text(goal), table, Text(counts, style="bold")]
    detector = found["detector"]["attacks"]
    if "off" not in detector:  # the text's own line says so
        parts.append(render_detector(detector))
    return Group(*parts)


def _answer(given: Mapping[str, Any]) -> Text:
    text = Text("obeys: " if given["obeyed"] else "", style="bold red")
    return text + Text(one_line(given["answer"], 90) or "(empty)", style="not bold")


def ask_and_show(trials: Tried, ask: Ask) -> None:
    """Asks for tasks and texts, and shows answers and attacks, until the user quits."""
    ask = _readable(ask)
    system = text = choice = ""
    try:
        while choice != "q":
            if choice in ("", "s"):
                system = ""
                while not system:
                    system = ask("task (the system prompt): ").strip()
            if choice in ("", "s", "t"):
                text = _text(ask)
            try:
                _show(trials, system, text, attack=choice == "a")
            except LlmcausalError as error:  # such as a text that is too long
                print_error(error)
            choice = _choice(ask)
    except EOFError:
        console().print()


def _readable(ask: Ask) -> Ask:
    """Repeats the question if the line is not in the terminal's encoding."""

    def asked(prompt: str) -> str:
        while True:
            try:
                return ask(prompt)
            except UnicodeDecodeError as error:
                print_error(error)

    return asked


def _show(trials: Tried, system: str, text: str, *, attack: bool) -> None:
    if attack:
        with status("Attacking"):
            found = trials.attacked(system, text)
        console().print(render_attacks(found))
    else:
        with status("Answering"):
            answers = trials.answers(system, [text])
            detector = trials.detected(system, [text])
        first = {side: answer for side, (answer,) in answers.items()}
        console().print(render_answers(first), render_detector(detector))


def _text(ask: Ask) -> str:
    while True:
        console().print(f"text; end it with a line that holds only {END!r}")
        lines: list[str] = []
        while (line := ask("| ")).strip() != END:
            lines.append(line)
        if text := "\n".join(lines).strip():
            return text


def _choice(ask: Ask) -> str:
    while (choice := ask(_CHOICES).strip().lower()[:1]) not in ("a", "t", "s", "q"):
        pass
    return choice
