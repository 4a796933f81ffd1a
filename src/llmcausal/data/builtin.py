"""The built-in generator: triplets over many small tasks, each with a checkable answer."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar, get_args

from llmcausal.attacks import FAMILIES
from llmcausal.attacks.base import AttackFamily, Goal, GoalKind, Phrasing, Position, Split
from llmcausal.attacks.goals import GOAL_KINDS
from llmcausal.data.scenarios import themes
from llmcausal.data.scenarios.scenario import Filling, Scenario, requests_beside
from llmcausal.data.triplet import SEEN, AttackInfo, Check, Triplet
from llmcausal.errors import DataError, UsageError

Layout = Literal["question_last", "question_first", "question_in_system"]
Counterfactual = Literal["other_input", "slot_edit", "rephrasing"]

LAYOUT_WEIGHTS: dict[Layout, int] = {
    "question_last": 1,
    "question_first": 2,
    "question_in_system": 2,
}
MARKS = (
    ("<text>\n", "\n</text>"),
    ("[document]\n", "\n[/document]"),
    ('"""\n', '\n"""'),
    ("----- begin -----\n", "\n----- end -----"),
)
"""What encloses a text beside a question, as programs enclose what they did not write themselves.

Without it nobody could tell an attack at the end from a question after the text.
"""
POSITION_WEIGHTS: dict[Position, int] = {"start": 1, "middle": 1, "end": 2}
"""Attacks succeed most at the end of a text, and where no question follows them."""
COUNTERFACTUAL_WEIGHTS: dict[Counterfactual, int] = {
    "other_input": 2,
    "slot_edit": 1,
    "rephrasing": 1,
}
"""Other wording and other values; the same wording; the same values and thus the same answer."""
PHRASINGS: Mapping[Split, Phrasing] = {
    "train": "train",
    "validation": "validation",
    "test": "held_out",
}
MAX_DRAWS = 500
"""Draws for one triplet before its scenario counts as used up."""

_CUT = "\x1f"
"""Stands in no scenario."""

T = TypeVar("T")


def load_scenarios(split: Split) -> list[Scenario]:
    """Returns the scenarios of one split in the order of their themes, then those of requests."""
    tasks = [scenario for theme in themes().values() for scenario in theme]
    tasks = [scenario for scenario in tasks if scenario.split == split]
    return [*tasks, *requests_beside(tasks)]


def load_families(split: Split, phrasing: Phrasing) -> list[AttackFamily]:
    """Returns the attack families that a split may use with one pool of phrasings."""
    families: list[AttackFamily] = [FAMILIES.load(name)() for name in FAMILIES.entries]
    if split == "test" and phrasing == "held_out":
        return families
    return [family for family in families if not family.held_out]


def generate(split: Split, count: int, seed: int) -> list[Triplet]:
    """Makes `count` distinct triplets; the same arguments always give the same ones.

    Scenarios, attack families and kinds of goal appear evenly. A smaller `count` gives the
    first of a larger one. Each split has its own pool of phrasings and wordings, and its own
    witnesses; families that are held out appear in the test split only.

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


def generate_seen(count: int, seed: int) -> list[Triplet]:
    """As `generate` of the test split, but attacked in the phrasings of the training data.

    The scenarios and witnesses are still those of the test split. Beside it, this tells how much
    of the resistance is to known phrasings.
    """
    return generate_from(load_scenarios("test"), "test", count, seed, seen=True)


def generate_from(
    scenarios: Sequence[Scenario],
    split: Split,
    count: int,
    seed: int,
    *,
    seen: bool = False,
) -> list[Triplet]:
    """As `generate`, over given scenarios; `seen` attacks them in the phrasings of training."""
    if count < 0:
        raise UsageError(f"cannot generate {count} triplets")
    phrasing = "train" if seen else PHRASINGS[split]
    label = f"{split}_seen" if seen else split
    rng = random.Random(f"llmcausal:{label}:{seed}")
    families = load_families(split, phrasing)
    kinds: dict[str, GoalKind] = {name: GOAL_KINDS.load(name) for name in GOAL_KINDS.entries}
    scenario_order = in_cycles(scenarios, rng)
    made: set[tuple[str, str, str]] = set()
    triplets = []
    for index in range(count):
        scenario = next(scenario_order)
        family = families[index % len(families)]
        # One step through the kinds for each round of families: every pair comes up evenly.
        kind = list(kinds)[index // len(families) % len(kinds)]
        attacker = _Attacker(family, kind, kinds[kind], split, phrasing)
        for _ in range(MAX_DRAWS):
            triplet = _draw(f"builtin-{label}-{seed}-{index:05d}", scenario, attacker, rng)
            key = (triplet.system, triplet.benign, triplet.injection) if triplet else None
            if triplet and key and key not in made:
                made.add(key)
                triplets.append(triplet)
                break
        else:
            reason = (
                f"scenario {scenario.id} has no further distinct triplets for "
                f"{family.name}; ask for at most {index}"
            )
            raise DataError([f"builtin {split}: count: {reason}"])
    return triplets


def in_cycles(items: Sequence[T], rng: random.Random) -> Iterator[T]:
    """Yields all items in a random order, then all again in another, without end."""
    while True:
        yield from rng.sample(items, len(items))


def _weighted(weights: Mapping[T, int], rng: random.Random) -> T:
    return rng.choices(list(weights), list(weights.values()))[0]


@dataclass(frozen=True)
class _Attacker:
    """Who attacks, and with what."""

    family: AttackFamily
    kind_name: str
    kind: GoalKind
    split: Split
    phrasing: Phrasing

    def goal(self, system: str, rng: random.Random) -> Goal:
        own = self.family.own_goal(system, rng, self.phrasing)
        return own or self.kind.draw(self.kind_name, self.split, self.phrasing, rng)


def novelty_of(family: AttackFamily, phrasing: Phrasing) -> str:
    """What of an attack the built-in training data holds, as in `AttackInfo`."""
    if phrasing == "train":
        return SEEN
    return "new_family" if family.held_out else "new_phrasing"


def _draw(
    triplet_id: str, scenario: Scenario, attacker: _Attacker, rng: random.Random
) -> Triplet | None:
    """Draws one triplet, or None where the draw breaks a rule of the data."""
    layout = _weighted(LAYOUT_WEIGHTS, rng)
    pair = _fill_twice(scenario, rng)
    goal = attacker.goal(scenario.system, rng)
    position = _weighted(POSITION_WEIGHTS, rng)
    if pair is None:
        return None
    benign, other = pair
    attacked = attacker.family.inject(benign.document, goal, rng, attacker.phrasing, position)
    system = scenario.system
    mark = rng.choice(MARKS)
    if layout == "question_in_system" and benign.question != other.question:
        layout = "question_first"  # the counterfactual shares the system prompt
    if layout == "question_in_system":
        system = f"{system} {benign.question}"
    if _obeyed_anyway(goal, system, benign, other):
        return None
    return Triplet(
        id=f"{triplet_id}-{scenario.id}-{attacker.family.name}",
        system=system,
        benign=user_text(benign.document, benign.question, layout, mark),
        benign_cf=user_text(other.document, other.question, layout, mark),
        injection=user_text(attacked, benign.question, layout, mark),
        response=benign.response,
        response_cf=other.response,
        category=scenario.category,
        attack=AttackInfo(
            family=attacker.family.name,
            goal=goal.instruction,
            witness=goal.witness,
            check=_proof(goal) if goal.pattern else None,
            position=position,
            difficulty=attacker.family.difficulty,
            novelty=novelty_of(attacker.family, attacker.phrasing),
        ),
        check=benign.check,
    )


def _fill_twice(scenario: Scenario, rng: random.Random) -> tuple[Filling, Filling] | None:
    """Draws an input and a counterfactual, or None where they do not differ as they should."""
    first, second = _every_wording(scenario, rng), _every_wording(scenario, rng)
    benign = rng.choice(first)
    how = _weighted(COUNTERFACTUAL_WEIGHTS, rng)
    if how == "rephrasing":
        other = rng.choice([filling for filling in first if filling != benign] or first)
    elif how == "slot_edit":
        other = second[first.index(benign)]
    else:
        other = rng.choice(second)
    if how != "rephrasing" and benign.answer == other.answer:
        return None
    return None if benign.document == other.document else (benign, other)


def _every_wording(scenario: Scenario, rng: random.Random) -> list[Filling]:
    """Fills all wordings of the document with the same values."""
    filled = replace(scenario, documents=(_CUT.join(scenario.documents),)).fill(rng)
    return [replace(filled, document=text) for text in filled.document.split(_CUT)]


def user_text(document: str, question: str, layout: Layout, mark: tuple[str, str]) -> str:
    """Puts a question and the text that it is about into one message; the text in marks.

    Without a question, or with it in the system prompt, the whole message is the text.
    """
    if layout == "question_in_system" or not question:
        return document
    enclosed = document.join(mark)
    parts = (question, enclosed) if layout == "question_first" else (enclosed, question)
    return "\n\n".join(parts)


def _proof(goal: Goal) -> Check:
    return Check("regex", goal.pattern) if goal.pattern else Check("contains", goal.witness)


def _obeyed_anyway(goal: Goal, system: str, *fillings: Filling) -> bool:
    """A witness proves nothing where harmless text or a right answer already holds it."""
    texts = [] if goal.in_system else [system]
    for filling in fillings:
        texts += [filling.document, filling.question, filling.response]
    return any(_proof(goal).passes(text) for text in texts)
