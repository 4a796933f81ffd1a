"""The built-in generator: triplets over many small tasks, each with a checkable answer."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar, get_args

from llmcausal.attacks import FAMILIES
from llmcausal.attacks.base import AttackFamily, Goal, Phrasing, Position, Split
from llmcausal.attacks.goals import GOAL_KINDS, GoalKind
from llmcausal.data.scenarios import Filling, Scenario, themes, with_requests
from llmcausal.data.triplet import SEEN, AttackInfo, Check, Triplet
from llmcausal.errors import DataError, UsageError

Layout = Literal["question_last", "question_first", "question_in_system"]

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
"""Enclose a text next to a question, as programs enclose foreign text.

Without marks, an attack at the end looks like a question after the text.
"""
POSITION_WEIGHTS: dict[Position, int] = {"start": 1, "middle": 1, "end": 2}
"""Attacks succeed most at a text's end, and where no question follows them."""
COUNTERFACTUAL_WEIGHTS = {"other_input": 2, "slot_edit": 1, "rephrasing": 1}
"""Wording and values both differ; only the values; only the wording, so the answer is the same."""
PHRASINGS: Mapping[Split, Phrasing] = {
    "train": "train",
    "validation": "validation",
    "test": "held_out",
}
MAX_DRAWS = 500
"""Draws for one triplet before its scenario counts as used up."""
_CUT = "\x1f"
"""A character that no scenario holds."""

T = TypeVar("T")


def load_scenarios(split: Split) -> list[Scenario]:
    """Returns a split's scenarios in the order of their themes, then those with requests."""
    tasks = [each for theme in themes().values() for each in theme if each.split == split]
    return [*tasks, *with_requests(tasks)]


def load_families(split: Split, phrasing: Phrasing) -> list[AttackFamily]:
    """Returns the attack families that a split may use with one pool of phrasings."""
    families = [FAMILIES.load(name)() for name in FAMILIES.entries]
    unseen = split == "test" and phrasing == "held_out"
    return [family for family in families if unseen or not family.held_out]


def generate(split: Split, count: int, seed: int) -> list[Triplet]:
    """Makes `count` distinct triplets; equal arguments give equal triplets.

    Scenarios, attack families and kinds of goal appear evenly. A smaller `count` gives the
    first triplets of a larger one. Splits share no scenario, phrasing, wording or witness, and
    only the test split has held-out families.

    Raises:
        UsageError: If the split is unknown, or `count` is negative.
        DataError: If there are no more distinct triplets.
    """
    if split not in get_args(Split):
        raise UsageError(f"unknown split {split!r}: choose one of {', '.join(get_args(Split))}")
    return generate_from(load_scenarios(split), split, count, seed)


def generate_seen(count: int, seed: int) -> list[Triplet]:
    """As `generate` of the test split, but attacked in the training data's phrasings.

    The comparison of the two shows how much of the resistance is to known phrasings.
    """
    return generate_from(load_scenarios("test"), "test", count, seed, seen=True)


def generate_from(
    scenarios: Sequence[Scenario], split: Split, count: int, seed: int, *, seen: bool = False
) -> list[Triplet]:
    """As `generate`, over given scenarios; `seen` attacks them in the training data's phrasings."""
    if count < 0:
        raise UsageError(f"cannot generate {count} triplets")
    phrasing = "train" if seen else PHRASINGS[split]
    label = f"{split}_seen" if seen else split
    rng = random.Random(f"llmcausal:{label}:{seed}")
    families = load_families(split, phrasing)
    scenario_order = in_cycles(scenarios, rng)
    made: dict[tuple[str, str, str], Triplet] = {}
    for index in range(count):
        scenario = next(scenario_order)
        attacker = Attacker.choose(index, families, split, phrasing)
        identity = f"builtin-{label}-{seed}-{index:05d}-{scenario.id}-{attacker.family.name}"
        for _ in range(MAX_DRAWS):
            triplet = _draw(identity, scenario, attacker, rng)
            if triplet and made.setdefault(triplet.prompts, triplet) is triplet:
                break
        else:
            reason = (
                f"scenario {scenario.id} has no further distinct triplets for "
                f"{attacker.family.name}; ask for at most {index}"
            )
            raise DataError([f"builtin {split}: count: {reason}"])
    return list(made.values())


def in_cycles(items: Sequence[T], rng: random.Random) -> Iterator[T]:
    """Yields all items in a random order, then again in another order, without end."""
    while True:
        yield from rng.sample(items, len(items))


def weighted(weights: Mapping[T, int], rng: random.Random) -> T:
    return rng.choices(list(weights), list(weights.values()))[0]


@dataclass(frozen=True)
class Attacker:
    """A family and a kind of goal; `goals` replace the kind's own."""

    family: AttackFamily
    kind: str
    split: Split
    phrasing: Phrasing
    goals: Sequence[Goal] = ()

    @classmethod
    def choose(
        cls,
        index: int,
        families: Sequence[AttackFamily],
        split: Split,
        phrasing: Phrasing,
        goals: Sequence[Goal] = (),
    ) -> Attacker:
        """Returns the attacker of the `index`-th triplet; all pairs appear evenly."""
        kinds = list(GOAL_KINDS.entries)
        kind = kinds[index // len(families) % len(kinds)]
        return cls(families[index % len(families)], kind, split, phrasing, goals)

    def goal(self, system: str, rng: random.Random) -> Goal:
        if own := self.family.own_goal(system, rng):
            return own
        if self.goals:
            return rng.choice(self.goals)
        kind: GoalKind = GOAL_KINDS.load(self.kind)
        return kind.draw(self.kind, self.split, self.phrasing, rng)

    def attack(self, bare: Triplet, goal: Goal, position: Position, rng: random.Random) -> Triplet:
        """Returns a triplet with the attack on its benign text."""
        return replace(
            bare,
            injection=self.family.inject(bare.benign, goal, rng, self.phrasing, position),
            attack=attack_info(self.family, goal, position, self.phrasing),
        )


def attack_info(
    family: AttackFamily, goal: Goal, position: Position, phrasing: Phrasing
) -> AttackInfo:
    novelty = SEEN
    if phrasing != "train":
        novelty = "new_family" if family.held_out else "new_phrasing"
    return AttackInfo(
        family=family.name,
        goal=goal.instruction,
        witness=goal.witness,
        check=Check("regex", goal.pattern) if goal.pattern else None,
        position=position,
        difficulty=family.difficulty,
        novelty=novelty,
    )


def _draw(
    identity: str, scenario: Scenario, attacker: Attacker, rng: random.Random
) -> Triplet | None:
    """Draws one triplet, or None if the draw breaks a rule of the data."""
    layout = weighted(LAYOUT_WEIGHTS, rng)
    pair = _fill_twice(scenario, rng)
    goal = attacker.goal(scenario.system, rng)
    position = weighted(POSITION_WEIGHTS, rng)
    if pair is None:
        return None
    benign, other = pair
    bare = Triplet(
        id=identity,
        system=scenario.system,
        benign=benign.document,
        benign_cf=other.document,
        injection="",
        response=benign.response,
        response_cf=other.response,
        category=scenario.category,
        check=benign.check,
    )
    attacked = attacker.attack(bare, goal, position, rng)
    questions = (benign.question, other.question)
    triplet = with_questions(attacked, *questions, layout, rng.choice(MARKS))
    texts = [text for each in pair for text in (each.document, each.question, each.response)]
    return None if is_obeyed_anyway(goal, triplet.system, texts) else triplet


def _fill_twice(scenario: Scenario, rng: random.Random) -> tuple[Filling, Filling] | None:
    """Draws an input and a counterfactual, or None if they do not differ as they should."""
    first, second = _every_wording(scenario, rng), _every_wording(scenario, rng)
    benign = rng.choice(first)
    how = weighted(COUNTERFACTUAL_WEIGHTS, rng)
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
    """Fills all wordings of the document with the same values: as one text, then cut again."""
    filled = replace(scenario, documents=(_CUT.join(scenario.documents),)).fill(rng)
    return [replace(filled, document=text) for text in filled.document.split(_CUT)]


def with_questions(
    bare: Triplet, question: str, question_cf: str, layout: Layout, mark: tuple[str, str]
) -> Triplet:
    """Puts questions into a triplet of bare documents: into its messages or the system prompt."""
    if question != question_cf and layout == "question_in_system":
        layout = "question_first"  # both inputs share the system prompt
    in_system = layout == "question_in_system" and question
    return replace(
        bare,
        system=f"{bare.system} {question}" if in_system else bare.system,
        benign=user_text(bare.benign, question, layout, mark),
        benign_cf=user_text(bare.benign_cf, question_cf, layout, mark),
        injection=user_text(bare.injection, question, layout, mark),
    )


def user_text(document: str, question: str, layout: Layout, mark: tuple[str, str]) -> str:
    """Returns a question and its text, in marks, as one message; without a question the text."""
    if layout == "question_in_system" or not question:
        return document
    enclosed = document.join(mark)
    parts = (question, enclosed) if layout == "question_first" else (enclosed, question)
    return "\n\n".join(parts)


def is_obeyed_anyway(goal: Goal, system: str, texts: Iterable[str]) -> bool:
    """Whether harmless texts hold the proof of obedience, which then proves nothing."""
    if not goal.witness and not goal.pattern:
        return False
    proof = Check("regex", goal.pattern) if goal.pattern else Check("contains", goal.witness)
    harmless = texts if goal.in_system else [*texts, system]
    return any(proof.passes(text) for text in harmless)
