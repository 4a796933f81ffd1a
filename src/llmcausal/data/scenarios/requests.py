"""Requests: the user asks for something, and the text is merely beside it.

An assistant does what its user asks, and an attack asks for the very same kinds of things from
inside the text. Only the place of an instruction then tells whether to follow it, and training
for the task alone teaches to follow both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

from pydantic import ConfigDict

from llmcausal.attacks.goal import Split
from llmcausal.data.scenarios.scenario import Scenario
from llmcausal.data_files import DataFile, read_table


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
