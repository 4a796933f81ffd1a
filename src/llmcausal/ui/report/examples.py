"""Chooses the examples that a reader should see: the worst first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from llmcausal.ui.report.hostile_text import shown

MOST_EXAMPLES = 30
Row = Mapping[str, Any]

_POSITION = {"start": "at the start", "middle": "in the middle", "end": "at the end"}
_NOVELTY = {
    "seen": "phrasing seen in training",
    "new_phrasing": "new phrasing",
    "new_family": "new family",
}


@dataclass(frozen=True)
class ShownVerdict:
    """What is said of an answer, and whether it is `good` or `bad`."""

    text: str
    quality: str


@dataclass(frozen=True)
class ShownAnswer:
    """An answer beside another.

    Attributes:
        who: Whose answer.
        kind: `base` or `tuned`.
        text: Ready for the page.
        verdicts: What was measured on it.
    """

    who: str
    kind: str
    text: Markup
    verdicts: list[ShownVerdict]


@dataclass(frozen=True)
class ShownExample:
    """One prompt and its answers, ready for the page."""

    id: str
    facts: list[str]
    system: Markup
    prompt: Markup
    expected: Markup
    answers: list[ShownAnswer]


@dataclass(frozen=True)
class ExampleGroup:
    """Examples that show the same thing.

    Attributes:
        title: What they show.
        total: How many there are in all.
        examples: Those shown.
    """

    title: str
    total: int
    examples: list[ShownExample]


_GROUPS: tuple[tuple[str, Callable[[Row], bool], int], ...] = (
    ("The tuned model obeyed the attack", lambda row: row.get("obeyed") is True, 14),
    (
        "A clean prompt answered wrong by the tuned model",
        lambda row: row.get("member") == "benign" and row.get("right") is False,
        8,
    ),
    (
        "The tuned model resisted where the other model obeyed",
        lambda row: row.get("base_obeyed") is True and row.get("obeyed") is False,
        8,
    ),
)


def choose_examples(rows: Sequence[Row], other: str = "base model") -> list[ExampleGroup]:
    """Chooses at most `MOST_EXAMPLES`, from as many attack families as there are.

    Args:
        rows: Of generations.jsonl.
        other: What the tuned model is compared with.
    """
    found = [[row for row in rows if belongs(row)] for _, belongs, _ in _GROUPS]
    counts = [min(len(some), quota) for some, (_, _, quota) in zip(found, _GROUPS, strict=True)]
    for index, some in enumerate(found):  # what one group leaves over, the next may use
        counts[index] += min(len(some) - counts[index], MOST_EXAMPLES - sum(counts))
    return [
        ExampleGroup(title, len(some), [_example(row, other) for row in _varied(some)[:count]])
        for (title, _, _), some, count in zip(_GROUPS, found, counts, strict=True)
        if some
    ]


def _varied(rows: Iterable[Row]) -> list[Row]:
    """Orders rows so that the families take turns, otherwise as they came."""
    turns: dict[str, int] = {}
    placed = []
    for place, row in enumerate(rows):
        family = str(row.get("family"))
        turns[family] = turns.get(family, -1) + 1
        placed.append((turns[family], place, row))
    return [row for _, _, row in sorted(placed, key=lambda item: item[:2])]


def _example(row: Row, other: str) -> ShownExample:
    witness = row.get("witness") or ""
    attacked = row.get("member") == "injection"
    goal = row.get("goal") if attacked else ""
    sides = [(other, "base", "base_"), ("tuned model", "tuned", "")]
    return ShownExample(
        id=str(row.get("id", "")),
        facts=_facts(row),
        system=shown(row.get("system") or ""),
        prompt=shown(row.get("prompt") or "", witness if attacked else "", goal),
        expected=shown(row.get("expected") or ""),
        answers=[
            ShownAnswer(who, kind, shown(row[f"{key}answer"], witness), _verdicts(row, key))
            for who, kind, key in sides
            if row.get(f"{key}answer") is not None
        ],
    )


def _facts(row: Row) -> list[str]:
    if row.get("member") != "injection":
        return [str(fact) for fact in (row.get("category"),) if fact]
    position = row.get("position")
    novelty = row.get("novelty")
    facts = (
        row.get("family"),
        position and _POSITION.get(str(position), position),
        row.get("difficulty"),
        novelty and _NOVELTY.get(str(novelty), novelty),
        row.get("category"),
    )
    return [str(fact) for fact in facts if fact]


def _verdicts(row: Row, key: str) -> list[ShownVerdict]:
    verdicts = []
    obeyed, right = row.get(f"{key}obeyed"), row.get(f"{key}right")
    if isinstance(obeyed, bool):
        verdicts.append(
            ShownVerdict("obeyed", "bad") if obeyed else ShownVerdict("resisted", "good")
        )
    if isinstance(right, bool):
        verdicts.append(
            ShownVerdict("task done", "good") if right else ShownVerdict("task not done", "bad")
        )
    if row.get(f"{key}stopped") is False:
        verdicts.append(ShownVerdict("cut at the length limit", "note"))
    return verdicts
