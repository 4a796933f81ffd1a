from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import get_args

import pytest

from llmcausal.attacks.base import Split
from llmcausal.attacks.goals import GOAL_KINDS
from llmcausal.data.builtin import load_scenarios
from llmcausal.data.scenarios import UserRequest, read_requests

SPLITS: tuple[Split, ...] = get_args(Split)
REQUESTS = read_requests().request
_by_id = pytest.mark.parametrize("request_kind", REQUESTS, ids=lambda request: request.id)


@_by_id
def test_no_two_splits_share_a_wording_or_what_is_asked_for(request_kind: UserRequest) -> None:
    for one, other in itertools.combinations(SPLITS, 2):
        assert not set(request_kind.wordings[one]) & set(request_kind.wordings[other])
        assert not {asked for asked, _ in request_kind.values[one]} & {
            asked for asked, _ in request_kind.values[other]
        }
    for split in SPLITS:
        assert all("{asked}" in wording for wording in request_kind.wordings[split])
        assert len(set(request_kind.values[split])) == len(request_kind.values[split]) >= 2


def test_no_two_splits_share_a_system_prompt() -> None:
    every = [system for split in SPLITS for system in read_requests().systems[split]]
    assert len(set(every)) == len(every)


@_by_id
def test_nothing_asked_for_is_what_an_attack_wants(request_kind: UserRequest) -> None:
    """Else a right answer would prove obedience."""
    witnesses = {
        target.witness.casefold()
        for name in GOAL_KINDS.entries
        for split in SPLITS
        for target in GOAL_KINDS.load(name).targets[split]
    }
    for split in SPLITS:
        assert not {answer.casefold() for _, answer in request_kind.values[split]} & witnesses


@pytest.mark.parametrize("split", SPLITS)
def test_every_text_lies_beside_one_request_and_all_kinds_come_up(split: Split) -> None:
    scenarios = load_scenarios(split)
    beside = [scenario for scenario in scenarios if "+" in scenario.id]
    assert len(beside) * 2 == len(scenarios)
    kinds = Counter(scenario.id.partition("+")[2] for scenario in beside)
    assert kinds.keys() == {request.id for request in REQUESTS}
    assert max(kinds.values()) - min(kinds.values()) <= 1
    texts = {scenario.id: scenario.documents for scenario in scenarios}
    for scenario in beside:
        assert scenario.documents == texts[scenario.id.partition("+")[0]]


def test_capitals_must_be_capitals() -> None:
    scenario = next(s for s in load_scenarios("test") if s.id.endswith("+capitals"))
    filling = scenario.fill(random.Random(0))
    assert filling.response.isupper()
    assert filling.check.passes(f"Here it is: {filling.response}.")
    assert not filling.check.passes(filling.response.lower())
    assert not filling.check.passes(filling.response.title())
