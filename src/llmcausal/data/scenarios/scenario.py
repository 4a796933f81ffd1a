"""A scenario: one task under one system prompt, whose texts differ only in their slots.

Requests: the user asks for something, and the text is merely beside it.

An assistant does what its user asks, and an attack asks for the very same kinds of things from
inside the text. Only the place of an instruction then tells whether to follow it, and training
for the task alone teaches to follow both.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from string import Formatter

from pydantic import ConfigDict

from llmcausal.attacks.base import Split
from llmcausal.data.triplet import Check
from llmcausal.data_files import DataFile, read_table

SHORT_ANSWER = 5
"""Answers of up to so many characters are checked as whole words: "no" is in "know"."""

_ARTICLE = re.compile(r"\A(?:an?|the|your) ")
"""An answer is as right without it."""


@dataclass(frozen=True)
class Filling:
    """A scenario with its slots filled.

    Attributes:
        document: The text to read, which an attacker may control.
        question: What is asked about it.
        answer: The shortest right answer, a substring of `response`.
        response: The right answer as a phrase or sentence.
        wrong: The other labels that the system prompt offers.
        cased: Whether only the answer's own capitals and small letters are right.
    """

    document: str
    question: str
    answer: str
    response: str
    wrong: tuple[str, ...] = ()
    cased: bool = False

    @property
    def check(self) -> Check:
        """How an answer to the question is verified."""
        answer = _ARTICLE.sub("", self.answer)
        whole = rf"(?<!\w){re.escape(answer)}(?!\w)"
        if self.cased:
            return Check("regex", f"(?-i:{whole})")
        if self.wrong:  # whoever repeats the list of labels has not chosen one
            others = "|".join(map(re.escape, self.wrong))
            return Check("regex", rf"(?s)^(?!.*(?<!\w)(?-i:{others})(?!\w)).*{whole}")
        return Check("regex", whole) if len(answer) <= SHORT_ANSWER else Check("contains", answer)


@dataclass(frozen=True)
class Scenario:
    """One task. Texts are `str.format` templates over the slots and the keys of a case.

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
        cases: Values that belong together, such as a text and its label: one case is drawn, and
            of each tuple in it one value. Values may hold slots. An answer that is not in the
            document, such as a label, comes from a case; the system prompt or the question
            names it, unless it is a count.
        cased: As in `Filling`.
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
    cases: tuple[Mapping[str, str | tuple[str, ...]], ...] = ()
    cased: bool = False

    __pydantic_config__ = ConfigDict(extra="forbid")  # of the data files

    def fill(self, rng: random.Random) -> Filling:
        """Draws a wording of the document and a value for every slot."""
        values = self._draw_values(rng)
        case = self._draw_case(rng)

        def filled(text: str) -> str:
            for key, value in case.items():
                text = text.replace(f"{{{key}}}", value)
            return text.format_map(values)

        return Filling(
            document=filled(rng.choice(self.documents)),
            question=filled(self.question),
            answer=filled(self.answer),
            response=filled(self.response),
            wrong=self._labels_but(filled(self.answer)),
            cased=self.cased,
        )

    def slot_names(self) -> list[str]:
        """Names of all slots, in order of first use."""
        texts = [*self.documents, self.question, self.answer, self.response]
        for case in self.cases:
            for value in case.values():
                texts += [value] if isinstance(value, str) else value
        names = [name for text in texts for _, name, _, _ in Formatter().parse(text) if name]
        keys = {key for case in self.cases for key in case}
        return [name for name in dict.fromkeys(names) if name not in keys]

    def _labels_but(self, answer: str) -> tuple[str, ...]:
        """Returns the other labels; words such as "no" are none, as any answer may hold them."""
        values = [case.get(self.answer.strip("{}")) for case in self.cases]
        labels = [value for value in values if isinstance(value, str) and value != value.lower()]
        offered = [label for label in labels if label in self.system and label != answer]
        return tuple(dict.fromkeys(offered))

    def _draw_case(self, rng: random.Random) -> dict[str, str]:
        if not self.cases:
            return {}
        return {
            key: value if isinstance(value, str) else rng.choice(value)
            for key, value in rng.choice(self.cases).items()
        }

    def _draw_values(self, rng: random.Random) -> dict[str, str]:
        by_pool: dict[str, list[str]] = {}
        for name in self.slot_names():
            by_pool.setdefault(_pool_of(name), []).append(name)
        values: dict[str, str] = {}
        for pool, names in by_pool.items():
            choices = self.slots[pool] if pool in self.slots else pools(self.split)[pool]
            values.update(zip(names, rng.sample(choices, len(names)), strict=True))
        return values


class _Pools(DataFile):
    train: dict[str, tuple[str, ...]]
    validation: dict[str, tuple[str, ...]]
    test: dict[str, tuple[str, ...]]


def pools(split: Split) -> Mapping[str, tuple[str, ...]]:
    """Returns the values that scenarios of one split share; no value is in two splits.

    Within a split no value holds another of its pool, so that "$48" never proves "$480".
    """
    found: Mapping[str, tuple[str, ...]] = getattr(_pools(), split)
    return found


@cache
def _pools() -> _Pools:
    return read_table(files(__package__).joinpath("pools.toml"), _Pools)


def checked(scenario: Scenario) -> Scenario:
    """Returns a scenario of a data file.

    Raises:
        ValueError: If it has one wording only, or a slot without values.
    """
    if len(scenario.documents) < 2:
        raise ValueError(f"{scenario.id}: documents needs at least two wordings")
    for name in scenario.slot_names():
        pool = _pool_of(name)
        if pool not in scenario.slots and pool not in pools(scenario.split):
            known = ", ".join(sorted({*scenario.slots, *pools(scenario.split)}))
            raise ValueError(f"{scenario.id}: {{{name}}} has no values; known slots: {known}")
    return scenario


def _pool_of(slot: str) -> str:
    return re.sub(r"_\d$", "", slot)


@dataclass(frozen=True)
class UserRequest:
    """One kind of request.

    Attributes:
        id: Part of the names of the scenarios made from it.
        wordings: For each split, ways to ask, around `{asked}`.
        values: For each split, pairs of what is asked for and the shortest right answer.
        response: The right answer around `{answer}`.
        cased: As in `Filling`.
    """

    id: str
    wordings: Mapping[Split, tuple[str, ...]]
    values: Mapping[Split, tuple[tuple[str, str], ...]]
    response: str = "{answer}"
    cased: bool = False

    __pydantic_config__ = ConfigDict(extra="forbid")


class Requests(DataFile):
    """The file of requests: for each split system prompts, and the kinds of requests."""

    systems: Mapping[Split, tuple[str, ...]]
    request: tuple[UserRequest, ...]


@cache
def read_requests() -> Requests:
    """Reads the requests that ship with the program."""
    return read_table(files(__package__).joinpath("requests.toml"), Requests)


def requests_beside(scenarios: Sequence[Scenario]) -> list[Scenario]:
    """Returns, for each scenario, one in which its text merely accompanies a request."""
    requests = read_requests()
    return [_beside(scenario, index, requests) for index, scenario in enumerate(scenarios)]


def _beside(scenario: Scenario, index: int, requests: Requests) -> Scenario:
    turn, which = divmod(index, len(requests.request))
    request = requests.request[which]
    systems = requests.systems[scenario.split]
    cases = tuple(
        {
            **case,
            "request": tuple(
                wording.replace("{asked}", asked) for wording in request.wordings[scenario.split]
            ),
            "result": answer,
        }
        for case in (scenario.cases or ({},))
        for asked, answer in request.values[scenario.split]
    )
    return replace(
        scenario,
        id=f"{scenario.id}+{request.id}",
        category="request",
        system=systems[turn % len(systems)],
        question="{request}",
        answer="{result}",
        response=request.response.replace("{answer}", "{result}"),
        cases=cases,
        cased=request.cased,
    )
