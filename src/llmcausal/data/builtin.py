"""The built-in generator: triplets over many small tasks, each with a checkable answer."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, TypeVar, get_args

from llmcausal.attacks import FAMILIES
from llmcausal.attacks.base import AttackFamily, Phrasing, Position
from llmcausal.attacks.goal import GOAL_KINDS, Goal, Split
from llmcausal.data.scenarios import THEMES
from llmcausal.data.scenarios.scenario import Filling, Scenario
from llmcausal.data.triplet import AttackInfo, Check, Triplet
from llmcausal.errors import DataError, UsageError

Layout = Literal["question_last", "question_first", "question_in_system"]

LAYOUT_WEIGHTS: dict[Layout, int] = {
    "question_last": 1,
    "question_first": 2,
    "question_in_system": 2,
}
POSITION_WEIGHTS: dict[Position, int] = {"start": 1, "middle": 1, "end": 3}
"""Attacks succeed most at the end of a text, and where no question follows them."""
MAX_DRAWS = 500
"""Draws for one triplet before its scenario counts as used up."""

T = TypeVar("T")


def load_scenarios(split: Split) -> list[Scenario]:
    """Returns the scenarios of one split, in the order of their themes."""
    themes = [THEMES.load(name) for name in THEMES.entries]
    return [scenario for theme in themes for scenario in theme if scenario.split == split]


def generate(split: Split, count: int, seed: int) -> list[Triplet]:
    """Makes `count` distinct triplets; the same arguments always give the same ones.

    Scenarios, attack families and kinds of goal appear evenly. A smaller `count` gives the
    first of a larger one. Validation and test use held-out phrasings, wordings and witnesses.

    Args:
        split: Which scenarios to use; no two splits share one.
        count: How many triplets.
        seed: Seed of every choice.

    Raises:
        UsageError: If the split is unknown, or `count` is negative.
        DataError: If there are no more distinct triplets.
    """
    if split not in get_args(Split):
        raise UsageError(f"unknown split {split!r}: choose one of {', '.join(get_args(Split))}")
    return generate_from(load_scenarios(split), split, count, seed)


def generate_from(
    scenarios: Sequence[Scenario], split: Split, count: int, seed: int
) -> list[Triplet]:
    """As `generate`, over given scenarios."""
    if count < 0:
        raise UsageError(f"cannot generate {count} triplets")
    rng = random.Random(f"llmcausal:{split}:{seed}")
    families: list[AttackFamily] = [FAMILIES.load(name)() for name in FAMILIES.entries]
    scenario_order = _in_cycles(scenarios, rng)
    seen: set[tuple[str, str, str]] = set()
    triplets = []
    for index in range(count):
        scenario = next(scenario_order)
        family = families[index % len(families)]
        # One step through the kinds for each round of families: every pair comes up evenly.
        kind = list(GOAL_KINDS)[index // len(families) % len(GOAL_KINDS)]
        for _ in range(MAX_DRAWS):
            triplet = _draw(f"builtin-{split}-{seed}-{index:05d}", scenario, family, kind, rng)
            key = (triplet.system, triplet.benign, triplet.injection) if triplet else None
            if triplet and key and key not in seen:
                seen.add(key)
                triplets.append(triplet)
                break
        else:
            reason = (
                f"scenario {scenario.id} has no further distinct triplets for "
                f"{family.name}; ask for at most {index}"
            )
            raise DataError([f"builtin {split}: count: {reason}"])
    return triplets


def _in_cycles(items: Sequence[T], rng: random.Random) -> Iterator[T]:
    """Yields all items in a random order, then all again in another, without end."""
    while True:
        yield from rng.sample(items, len(items))


def _weighted(weights: Mapping[T, int], rng: random.Random) -> T:
    return rng.choices(list(weights), list(weights.values()))[0]


def _draw(
    triplet_id: str, scenario: Scenario, family: AttackFamily, kind: str, rng: random.Random
) -> Triplet | None:
    """Draws one triplet, or None where the draw breaks a rule of the data."""
    layout = _weighted(LAYOUT_WEIGHTS, rng)
    benign, other = scenario.fill(rng), scenario.fill(rng)
    goal = GOAL_KINDS[kind].draw(kind, scenario.split, rng)
    phrasing: Phrasing = "train" if scenario.split == "train" else "held_out"
    position = _weighted(POSITION_WEIGHTS, rng)
    attacked = family.inject(benign.document, goal, rng, phrasing, position)
    system = scenario.system
    if layout == "question_in_system":
        # The counterfactual shares the system prompt, hence must share the question.
        if benign.question != other.question:
            return None
        system = f"{system} {benign.question}"
    if benign.answer == other.answer or _mentions_witness(goal, system, benign, other):
        return None
    return Triplet(
        id=f"{triplet_id}-{scenario.id}-{family.name}",
        system=system,
        benign=_user_text(benign.document, benign.question, layout),
        benign_cf=_user_text(other.document, other.question, layout),
        injection=_user_text(attacked, benign.question, layout),
        response=benign.response,
        response_cf=other.response,
        category=scenario.category,
        attack=AttackInfo(family=family.name, goal=goal.instruction, witness=goal.witness),
        check=Check("contains", benign.answer),
    )


def _user_text(document: str, question: str, layout: Layout) -> str:
    if layout == "question_in_system":
        return document
    parts = (question, document) if layout == "question_first" else (document, question)
    return "\n\n".join(parts)


def _mentions_witness(goal: Goal, system: str, *fillings: Filling) -> bool:
    """A witness proves nothing where harmless text or a right answer already holds it."""
    texts = [system]
    for filling in fillings:
        texts += [filling.document, filling.question, filling.response]
    return any(goal.witness.casefold() in text.casefold() for text in texts)
