"""Makes triplets from plain examples: adds an attack, and another harmless input."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from llmcausal.attacks import FAMILIES
from llmcausal.attacks.base import AttackFamily, Goal, Position, Split
from llmcausal.data.builtin import (
    LAYOUT_WEIGHTS,
    MARKS,
    PHRASINGS,
    POSITION_WEIGHTS,
    Attacker,
    is_obeyed_anyway,
    load_families,
    weighted,
    with_questions,
)
from llmcausal.data.sources.counterfactual import CounterfactualKind, Counterfactuals
from llmcausal.data.sources.example import LeftOut, SourceExample, Unusable
from llmcausal.data.triplet import Triplet
from llmcausal.errors import UsageError
from llmcausal.registry import suggestion

MAX_DRAWS = 50
"""Draws for one triplet before its example is left out."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class BuildOptions:
    """The options of `data build`."""

    split: Split = "train"  # chooses the attacks' phrasings, families and goals
    seed: int = 0
    # Triplets; None makes one from each example. A higher count attacks examples several times.
    count: int | None = None
    families: tuple[str, ...] = ()  # of attacks; none means all that the split may use
    positions: tuple[Position, ...] = ()  # of attacks; none means anywhere, mostly at the end
    counterfactual: CounterfactualKind = "other_input"  # kind of `benign_cf`


def choose_families(split: Split, names: Sequence[str]) -> list[AttackFamily]:
    """Returns the named families, or all of a split; raises a UsageError at other names."""
    allowed = {family.name: family for family in load_families(split, PHRASINGS[split])}
    for name in names:
        if name not in FAMILIES.entries:
            hint = suggestion(name, FAMILIES.entries)
            raise UsageError(f"--families: unknown attack family {name!r}{hint}")
        if name not in allowed:
            raise UsageError(
                f"--families: {name} is held out for --split test, which tests a model on "
                "kinds of attacks that training never saw"
            )
    return [allowed[name] for name in dict.fromkeys(names)] or list(allowed.values())


class TripletBuilder:
    """Makes triplets from examples; equal arguments give equal triplets.

    `goals` replace the built-in ones. `rewritings` are the documents of the counterfactual `model`,
    by example id.
    """

    def __init__(
        self,
        examples: Sequence[SourceExample],
        options: BuildOptions,
        goals: Sequence[Goal] = (),
        rewritings: Mapping[str, str] | None = None,
    ) -> None:
        self._examples = examples
        self._options = options
        self._goals = goals
        self._families = choose_families(options.split, options.families)
        self._spent: set[str] = set()
        self._seen: set[tuple[str, str, str]] = set()
        self._counterfactuals = Counterfactuals(options.counterfactual, examples, rewritings)

    def build(self, left_out: LeftOut, progress: Progress | None = None) -> list[Triplet]:
        """Makes the triplets; families and kinds of goal appear evenly.

        `left_out` receives the unusable examples; `progress` is called with (done, total).
        """
        options = self._options
        count = len(self._examples) if options.count is None else options.count
        triplets: list[Triplet] = []
        for number, example in self._rounds():
            if len(triplets) == count:
                break
            identity = f"{example.id}-{options.split}-{options.seed}-{number}"
            rng = random.Random(f"llmcausal:{identity}")
            try:
                triplet = self._make(identity, example, len(triplets), rng)
            except Unusable as error:
                left_out.add(example.where, str(error))
                self._spent.add(example.id)
                continue
            triplets.append(triplet)
            if progress:
                progress(len(triplets), count)
        return triplets

    def _rounds(self) -> Iterator[tuple[int, SourceExample]]:
        """Yields the examples in a random order, again and again while one can be used."""
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
        self, identity: str, example: SourceExample, index: int, rng: random.Random
    ) -> Triplet:
        split, phrasing = self._options.split, PHRASINGS[self._options.split]
        attacker = Attacker.choose(index, self._families, split, phrasing, self._goals)
        spoilt = False
        positions = self._options.positions or tuple(POSITION_WEIGHTS)
        for _ in range(MAX_DRAWS):
            other = self._counterfactuals.draw(example, rng)
            goal = attacker.goal(example.system, rng)
            texts = [example.context, example.document, example.question, example.response]
            texts += [other.document, other.question, other.response or ""]
            if is_obeyed_anyway(goal, example.system, texts):
                spoilt = True
                continue
            [position] = rng.choices(positions, [POSITION_WEIGHTS[each] for each in positions])
            bare = Triplet(
                id=f"{identity}-{attacker.family.name}",
                system=example.system,
                benign=example.document,
                benign_cf=other.document,
                injection="",
                response=example.response,
                response_cf=other.response,
                context=example.context,
                category=example.category,
                check=example.check,
            )
            attacked = attacker.attack(bare, goal, position, rng)
            layout, mark = weighted(LAYOUT_WEIGHTS, rng), rng.choice(MARKS)
            triplet = with_questions(attacked, example.question, other.question, layout, mark)
            if triplet.prompts not in self._seen:
                self._seen.add(triplet.prompts)
                return triplet
        if spoilt:
            raise Unusable("attack: its texts already hold the witness of every goal drawn")
        raise Unusable("attack: no further distinct attack on it; ask for fewer with --count")
