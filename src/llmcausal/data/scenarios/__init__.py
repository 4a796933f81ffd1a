"""The built-in generator's tasks as data: one file per theme in `themes/`, in their order of use.

`pools.toml` holds values that scenarios share, `requests.toml` requests by users who also attach a
text. Attacks make the same requests from inside the text, so only an instruction's place shows
whether to follow it. Training on tasks alone teaches to follow both.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from string import Formatter
from typing import Annotated

from pydantic import AfterValidator, ConfigDict

from llmcausal.attacks.base import Split
from llmcausal.data.triplet import Check
from llmcausal.data_files import DataFile, read_table

SHORT_ANSWER = 5
"""Answers up to this length must be whole words, since "no" is in "know"."""
_ARTICLE = re.compile(r"\A(?:an?|the|your) ")
"""An answer is right without it too."""


@dataclass(frozen=True)
class Filling:
    """A scenario with its slots filled."""

    document: str  # the text to read, which an attacker may control
    question: str
    answer: str  # the shortest right answer, a part of `response`
    response: str
    wrong: tuple[str, ...] = ()  # the other labels that the system prompt offers
    cased: bool = False  # the answer must have the same upper and lower case

    @property
    def check(self) -> Check:
        answer = _ARTICLE.sub("", self.answer)
        whole = rf"(?<!\w){re.escape(answer)}(?!\w)"
        if self.cased:
            return Check("regex", f"(?-i:{whole})")
        if self.wrong:  # an answer that repeats all labels chooses none
            others = "|".join(map(re.escape, self.wrong))
            return Check("regex", rf"(?s)^(?!.*(?<!\w)(?-i:{others})(?!\w)).*{whole}")
        return Check("regex", whole) if len(answer) <= SHORT_ANSWER else Check("contains", answer)


@dataclass(frozen=True)
class Scenario:
    """One task. Texts are `str.format` templates over the slots and the keys of a case."""

    id: str
    category: str
    split: Split  # the only split that uses it
    system: str  # the trusted system prompt; no slots
    documents: tuple[str, ...]  # at least two wordings of the text
    question: str
    answer: str  # the checkable answer
    response: str  # the answer as a phrase or sentence
    # Values of the scenario's own slots. Any other slot draws from the split's shared pool of its
    # name. Slots that differ in a trailing `_2` or `_3` share a pool and never get equal values.
    slots: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # Values that belong together, such as a text and its label. A draw takes one case, and one
    # value of each tuple in it. Values may hold slots. An answer that is not in the document, such
    # as a label, comes from a case. The system prompt or the question names it, unless it is a
    # count.
    cases: tuple[Mapping[str, str | tuple[str, ...]], ...] = ()
    cased: bool = False

    __pydantic_config__ = ConfigDict(extra="forbid")  # of the data files

    def fill(self, rng: random.Random) -> Filling:
        values = self._draw_values(rng)
        chosen = rng.choice(self.cases) if self.cases else {}
        case = {
            key: value if isinstance(value, str) else rng.choice(value)
            for key, value in chosen.items()
        }

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
        """Returns all slots' names in the order of first use."""
        texts = [*self.documents, self.question, self.answer, self.response]
        for case in self.cases:
            for value in case.values():
                texts += [value] if isinstance(value, str) else value
        names = [name for text in texts for _, name, _, _ in Formatter().parse(text) if name]
        keys = {key for case in self.cases for key in case}
        return [name for name in dict.fromkeys(names) if name not in keys]

    def _labels_but(self, answer: str) -> tuple[str, ...]:
        """Returns the other labels; lower-case words such as "no" may be in any answer."""
        values = [case.get(self.answer.strip("{}")) for case in self.cases]
        labels = [value for value in values if isinstance(value, str) and value != value.lower()]
        offered = [label for label in labels if label in self.system and label != answer]
        return tuple(dict.fromkeys(offered))

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


@cache
def pools(split: Split) -> Mapping[str, tuple[str, ...]]:
    """Returns the values that a split's scenarios share; no value is in two splits.

    Within a split no value holds another of its pool, so "$48" never proves "$480".
    """
    read = read_table(files(__package__).joinpath("pools.toml"), _Pools)
    found: Mapping[str, tuple[str, ...]] = getattr(read, split)
    return found


def _checked(scenario: Scenario) -> Scenario:
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


class Theme(DataFile):
    scenario: tuple[Annotated[Scenario, AfterValidator(_checked)], ...]


@cache
def themes() -> dict[str, tuple[Scenario, ...]]:
    """Returns each theme's scenarios, by its name without the number."""
    found = sorted(files(__package__).joinpath("themes").iterdir(), key=lambda file: file.name)
    return {file.name.partition("_")[2].removesuffix(".toml"): read_theme(file) for file in found}


def read_theme(file: Traversable) -> tuple[Scenario, ...]:
    """Reads a theme; raises a DataError with every defect as `file:line: key: reason`."""
    return read_table(file, Theme).scenario


@dataclass(frozen=True)
class UserRequest:
    id: str
    wordings: Mapping[Split, tuple[str, ...]]  # templates around `{asked}`
    # Pairs of the text that fills them and the shortest right answer.
    values: Mapping[Split, tuple[tuple[str, str], ...]]
    response: str = "{answer}"  # the right answer around the shortest one
    cased: bool = False

    __pydantic_config__ = ConfigDict(extra="forbid")


class Requests(DataFile):
    """The file of requests: system prompts for each split, and the kinds of requests."""

    systems: Mapping[Split, tuple[str, ...]]
    request: tuple[UserRequest, ...]


@cache
def read_requests() -> Requests:
    return read_table(files(__package__).joinpath("requests.toml"), Requests)


def with_requests(scenarios: Sequence[Scenario]) -> list[Scenario]:
    """Returns a scenario for each given one whose text only accompanies a request."""
    requests = read_requests()
    found = []
    for index, scenario in enumerate(scenarios):
        turn, which = divmod(index, len(requests.request))
        request, split = requests.request[which], scenario.split
        systems = requests.systems[split]
        cases = []
        for case in scenario.cases or ({},):
            for asked, answer in request.values[split]:
                wordings = (each.replace("{asked}", asked) for each in request.wordings[split])
                cases.append({**case, "request": tuple(wordings), "result": answer})
        made = replace(
            scenario,
            id=f"{scenario.id}+{request.id}",
            category="request",
            system=systems[turn % len(systems)],
            question="{request}",
            answer="{result}",
            response=request.response.replace("{answer}", "{result}"),
            cases=tuple(cases),
            cased=request.cased,
        )
        found.append(made)
    return found
