"""Makes triplets of plain examples: puts an attack in, and another harmless input beside it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from llmcausal.attacks import FAMILIES
from llmcausal.attacks.base import AttackFamily, Position
from llmcausal.attacks.goal import Goal, Split
from llmcausal.attacks.goals import GOAL_KINDS
from llmcausal.data.builtin import (
    LAYOUT_WEIGHTS,
    MARKS,
    PHRASINGS,
    POSITION_WEIGHTS,
    load_families,
    novelty_of,
    user_text,
)
from llmcausal.data.sources.counterfactual import CounterfactualKind, Counterfactuals, Counterpart
from llmcausal.data.sources.example import LeftOut, SourceExample, Unusable
from llmcausal.data.triplet import AttackInfo, Check, Triplet
from llmcausal.errors import UsageError
from llmcausal.registry import nearest

MAX_DRAWS = 50
"""Draws for one triplet before its example is left out."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class BuildOptions:
    """What triplets are made with.

    Attributes:
        split: Whose phrasings, families and goals attack.
        seed: Seed of every choice.
        count: How many triplets; None makes one of each example. More than there are examples
            attacks each several times.
        families: Attack families; none means all of the split.
        positions: Where attacks are put; none means anywhere, mostly at the end.
        counterfactual: What `benign_cf` is.
    """

    split: Split = "train"
    seed: int = 0
    count: int | None = None
    families: tuple[str, ...] = ()
    positions: tuple[Position, ...] = ()
    counterfactual: CounterfactualKind = "other_input"


def choose_families(split: Split, names: Sequence[str]) -> list[AttackFamily]:
    """Returns the named families, or all of a split.

    Raises:
        UsageError: If a name is unknown, or its family is kept for the test split.
    """
    allowed = {family.name: family for family in load_families(split, PHRASINGS[split])}
    for name in names:
        if name not in FAMILIES.entries:
            known = ", ".join(FAMILIES.entries)
            hint = nearest(name, FAMILIES.entries)
            raise UsageError(f"--families: unknown attack family {name!r}{hint} (known: {known})")
        if name not in allowed:
            raise UsageError(
                f"--families: {name} is held out for --split test, so that a model is tested on a "
                "kind of attack that training never saw"
            )
    return [allowed[name] for name in dict.fromkeys(names)] or list(allowed.values())


class TripletBuilder:
    """Makes triplets; the same arguments always give the same ones."""

    def __init__(
        self,
        examples: Sequence[SourceExample],
        options: BuildOptions,
        goals: Sequence[Goal] = (),
        rewritings: Mapping[str, str] | None = None,
    ) -> None:
        """Takes the examples and what stands in for the program's own choices.

        Args:
            examples: Tasks without an attack.
            options: How triplets are made.
            goals: Used in place of the built-in ones.
            rewritings: For the counterfactual `model`: the document of each example, by its id.
        """
        self._examples = examples
        self._options = options
        self._goals = goals
        self._families = choose_families(options.split, options.families)
        self._spent: set[str] = set()
        self._kinds = list(GOAL_KINDS.entries)
        self._counterfactuals = Counterfactuals(options.counterfactual, examples, rewritings)

    def build(self, left_out: LeftOut, progress: Progress | None = None) -> list[Triplet]:
        """Makes the triplets; families and kinds of goal appear evenly.

        Args:
            left_out: Told which examples cannot be used, and why.
            progress: Told (done, total).
        """
        options = self._options
        count = len(self._examples) if options.count is None else options.count
        triplets: list[Triplet] = []
        seen: set[tuple[str, str, str]] = set()
        for number, example in self._rounds():
            if len(triplets) == count:
                break
            identity = f"{example.id}-{options.split}-{options.seed}-{number}"
            rng = random.Random(f"llmcausal:{identity}")
            try:
                triplet = self._make(identity, example, len(triplets), rng, seen)
            except Unusable as error:
                left_out.add(example.where, str(error))
                self._spent.add(example.id)
                continue
            triplets.append(triplet)
            if progress:
                progress(len(triplets), count)
        return triplets

    def _rounds(self) -> Iterator[tuple[int, SourceExample]]:
        """Yields the examples in a random order, and again as long as one can be used."""
        order = random.Random(f"llmcausal:order:{self._options.seed}")
        number = 0
        while True:
            left = [example for example in self._examples if example.id not in self._spent]
            if not left or (number and self._options.count is None):
                return
            for example in order.sample(left, len(left)):
                yield number, example
            number += 1

    def _make(
        self,
        identity: str,
        example: SourceExample,
        index: int,
        rng: random.Random,
        seen: set[tuple[str, str, str]],
    ) -> Triplet:
        family = self._families[index % len(self._families)]
        kind = self._kinds[index // len(self._families) % len(self._kinds)]
        spoilt = False
        for _ in range(MAX_DRAWS):
            other = self._counterfactuals.draw(example, rng)
            goal = self._goal(example, family, kind, rng)
            if _obeyed_anyway(goal, example, other):
                spoilt = True
                continue
            triplet = self._triplet(identity, example, other, family, goal, rng)
            key = (triplet.system, triplet.benign, triplet.injection)
            if key not in seen:
                seen.add(key)
                return triplet
        if spoilt:
            raise Unusable("attack: its texts already hold the witness of every goal drawn")
        raise Unusable("attack: no further distinct attack on it; ask for fewer with --count")

    def _goal(
        self, example: SourceExample, family: AttackFamily, kind: str, rng: random.Random
    ) -> Goal:
        split, phrasing = self._options.split, PHRASINGS[self._options.split]
        own = family.own_goal(example.system, rng, phrasing)
        if own is not None:
            return own
        if self._goals:
            return rng.choice(self._goals)
        drawn: Goal = GOAL_KINDS.load(kind).draw(kind, split, phrasing, rng)
        return drawn

    def _triplet(
        self,
        identity: str,
        example: SourceExample,
        other: Counterpart,
        family: AttackFamily,
        goal: Goal,
        rng: random.Random,
    ) -> Triplet:
        phrasing = PHRASINGS[self._options.split]
        position = self._position(rng)
        attacked = family.inject(example.document, goal, rng, phrasing, position)
        layout = rng.choices(list(LAYOUT_WEIGHTS), list(LAYOUT_WEIGHTS.values()))[0]
        if layout == "question_in_system" and other.question != example.question:
            layout = "question_first"  # the counterfactual shares the system prompt
        in_system = layout == "question_in_system" and example.question
        mark = rng.choice(MARKS)
        return Triplet(
            id=f"{identity}-{family.name}",
            system=f"{example.system} {example.question}" if in_system else example.system,
            benign=user_text(example.document, example.question, layout, mark),
            benign_cf=user_text(other.document, other.question, layout, mark),
            injection=user_text(attacked, example.question, layout, mark),
            response=example.response,
            response_cf=other.response,
            context=example.context,
            category=example.category,
            attack=AttackInfo(
                family=family.name,
                goal=goal.instruction,
                witness=goal.witness,
                check=Check("regex", goal.pattern) if goal.pattern else None,
                position=position,
                difficulty=family.difficulty,
                novelty=novelty_of(family, phrasing),
            ),
            check=example.check,
        )

    def _position(self, rng: random.Random) -> Position:
        positions = self._options.positions or tuple(POSITION_WEIGHTS)
        return rng.choices(positions, [POSITION_WEIGHTS[position] for position in positions])[0]


def _obeyed_anyway(goal: Goal, example: SourceExample, other: Counterpart) -> bool:
    """Proof of obedience proves nothing where harmless text or a right answer already holds it."""
    if not goal.witness and not goal.pattern:
        return False
    texts = [example.context, example.document, example.question, example.response]
    texts += [other.document, other.question, other.response or ""]
    if not goal.in_system:
        texts.append(example.system)
    if goal.pattern:
        return any(Check("regex", goal.pattern).passes(text) for text in texts)
    return any(Check("contains", goal.witness).passes(text) for text in texts)
