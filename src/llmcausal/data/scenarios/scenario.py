"""A scenario: one task under one system prompt, whose texts differ only in their slots."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from string import Formatter

from llmcausal.attacks.goal import Split
from llmcausal.data.scenarios.pools import POOLS


@dataclass(frozen=True)
class Filling:
    """A scenario with its slots filled.

    Attributes:
        document: The text to read, which an attacker may control.
        question: What is asked about it.
        answer: The shortest right answer, a substring of `response`.
        response: The right answer as a phrase or sentence.
    """

    document: str
    question: str
    answer: str
    response: str


@dataclass(frozen=True)
class Scenario:
    """One task. Texts are `str.format` templates over the slots.

    Attributes:
        id: Unique among all scenarios.
        category: Kind of text.
        split: The only split that uses it.
        system: The trusted system prompt; no slots.
        documents: At least two wordings of the text.
        question: What is asked about the text.
        answer: The checkable answer.
        response: The answer as a phrase or sentence.
        slots: Values of the scenario's own slots. Any other slot draws from the split's shared
            pool of its name, without a trailing `_2`, `_3`; such slots never get equal values.
    """

    id: str
    category: str
    split: Split
    system: str
    documents: tuple[str, ...]
    question: str
    answer: str
    response: str
    slots: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def fill(self, rng: random.Random) -> Filling:
        """Draws a wording of the document and a value for every slot."""
        values = self._draw_values(rng)
        return Filling(
            document=rng.choice(self.documents).format_map(values),
            question=self.question.format_map(values),
            answer=self.answer.format_map(values),
            response=self.response.format_map(values),
        )

    def slot_names(self) -> list[str]:
        """Names of all slots, in order of first use."""
        texts = (*self.documents, self.question, self.answer, self.response)
        names = [name for text in texts for _, name, _, _ in Formatter().parse(text) if name]
        return list(dict.fromkeys(names))

    def _draw_values(self, rng: random.Random) -> dict[str, str]:
        by_pool: dict[str, list[str]] = {}
        for name in self.slot_names():
            by_pool.setdefault(re.sub(r"_\d$", "", name), []).append(name)
        values: dict[str, str] = {}
        for pool, names in by_pool.items():
            choices = self.slots[pool] if pool in self.slots else POOLS[self.split][pool]
            values.update(zip(names, rng.sample(choices, len(names)), strict=True))
        return values
