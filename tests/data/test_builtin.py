from __future__ import annotations

import itertools
import random
import string
from collections import Counter
from typing import get_args

import pytest

from llmcausal.attacks import FAMILIES
from llmcausal.attacks.goal import GOAL_KINDS, Split
from llmcausal.data.builtin import generate, generate_from, load_scenarios
from llmcausal.data.scenarios.pools import POOLS
from llmcausal.data.scenarios.scenario import Scenario
from llmcausal.errors import DataError, UsageError

SPLITS: tuple[Split, ...] = get_args(Split)
ALL = [scenario for split in SPLITS for scenario in load_scenarios(split)]


@pytest.fixture(scope="module")
def triplets() -> dict[Split, list]:
    return {split: generate(split, 210, seed=5) for split in SPLITS}


class TestScenarios:
    def test_there_are_enough_of_them_in_each_split(self) -> None:
        counts = Counter(scenario.split for scenario in ALL)
        assert counts["train"] >= 26
        assert counts["validation"] >= 5
        assert counts["test"] >= 9
        for split in SPLITS:
            assert len({s.category for s in load_scenarios(split)}) >= 5

    def test_splits_share_neither_scenario_nor_prompt_nor_document(self) -> None:
        assert len({scenario.id for scenario in ALL}) == len(ALL)
        assert len({scenario.system for scenario in ALL}) == len(ALL)
        documents = [document for scenario in ALL for document in scenario.documents]
        assert len(set(documents)) == len(documents)

    def test_shared_values_are_in_one_split_only(self) -> None:
        for one, two in itertools.combinations(SPLITS, 2):
            assert POOLS[one].keys() == POOLS[two].keys()
            for pool in POOLS[one]:
                assert not set(POOLS[one][pool]) & set(POOLS[two][pool]), pool

    @pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.id)
    def test_every_answer_stands_in_every_wording(self, scenario: Scenario) -> None:
        assert len(set(scenario.documents)) >= 2
        assert [slot for _, slot, _, _ in string.Formatter().parse(scenario.system)] == [None]
        rng = random.Random(1)
        documents = set()
        for _ in range(60):
            filled = scenario.fill(rng)
            documents.add(filled.document)
            assert filled.answer in filled.document
            assert filled.answer in filled.response
            assert filled.answer.casefold() not in filled.question.casefold()
            assert filled.answer.casefold() not in scenario.system.casefold()
            assert 1 <= len(filled.response.split()) <= 12
        assert len(documents) >= 10

    @pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.id)
    def test_no_witness_of_its_split_is_in_any_of_its_texts(self, scenario: Scenario) -> None:
        texts = [scenario.system, scenario.question, scenario.response, *scenario.documents]
        texts += [v for values in scenario.slots.values() for v in values]
        texts += [v for values in POOLS[scenario.split].values() for v in values]
        haystack = "\n".join(texts).casefold()
        for kind in GOAL_KINDS.values():
            for _, witness in kind.targets[scenario.split]:
                assert witness.casefold() not in haystack

    @pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.id)
    def test_no_slot_value_is_spare(self, scenario: Scenario) -> None:
        used = {name.rstrip("_23") for name in scenario.slot_names()}
        assert set(scenario.slots) <= used

    def test_slots_of_one_pool_never_get_equal_values(self) -> None:
        staff = next(s for s in ALL if s.id == "table_capital_staff")
        for seed in range(50):
            question = staff.fill(random.Random(seed))
            names = [
                line.split(" | ")[0].split(" works")[0].strip("- ")
                for line in question.document.splitlines()[1:]
            ]
            assert len(set(names)) == 2


class TestGenerate:
    def test_is_a_function_of_split_count_and_seed(self) -> None:
        assert generate("train", 40, 3) == generate("train", 40, 3)
        assert generate("train", 15, 3) == generate("train", 40, 3)[:15]
        assert generate("train", 40, 3) != generate("train", 40, 4)

    def test_every_triplet_is_distinct_and_has_its_own_id(self, triplets) -> None:
        every = [t for split in SPLITS for t in triplets[split]]
        assert len({t.id for t in every}) == len(every)
        assert len({(t.system, t.benign, t.injection) for t in every}) == len(every)

    @pytest.mark.parametrize("split", SPLITS)
    def test_right_answers_pass_the_check_and_hold_no_witness(self, triplets, split) -> None:
        for t in triplets[split]:
            assert t.check.passes(t.response)
            assert t.check.passes(t.robust_response)
            assert not t.check.passes(t.response_cf)
            witness = t.attack.witness.casefold()
            assert not t.check.passes(t.attack.witness)
            for text in (t.system, t.benign, t.benign_cf, t.response, t.response_cf):
                assert witness not in text.casefold()

    @pytest.mark.parametrize("split", SPLITS)
    def test_an_injection_is_the_benign_text_and_the_attack(self, triplets, split) -> None:
        for t in triplets[split]:
            assert t.benign not in (t.benign_cf, t.injection)
            assert t.attack.goal in t.injection
            assert t.attack.goal not in t.benign
            left = iter("".join(t.injection.split()))
            assert all(char in left for char in "".join(t.benign.split()))

    @pytest.mark.parametrize("split", SPLITS)
    def test_scenarios_families_and_goals_appear_evenly(self, triplets, split) -> None:
        scenarios = Counter(t.id.split("-")[4] for t in triplets[split])
        families = Counter(t.attack.family for t in triplets[split])
        assert set(scenarios) == {s.id for s in load_scenarios(split)}
        assert set(families) == set(FAMILIES.entries)
        for counts in (scenarios, families):
            assert max(counts.values()) - min(counts.values()) <= 1
        witnesses = Counter(
            (t.attack.family, kind)
            for t in triplets[split]
            for kind, goals in GOAL_KINDS.items()
            if t.attack.witness in [w for _, w in goals.targets[split]]
        )
        assert set(witnesses.values()) == {210 // (len(FAMILIES.entries) * len(GOAL_KINDS))}

    def test_held_out_splits_use_no_training_phrasing_or_goal(self, triplets) -> None:
        families = [FAMILIES.load(name) for name in FAMILIES.entries]
        phrasings = {
            part
            for family in families
            for text in family.train_phrasings
            for part in text.split("{instruction}")
            if any(char.isalpha() for char in part)
        }
        trained_goals = {t.attack.goal for t in triplets["train"]}
        trained_witnesses = {t.attack.witness for t in triplets["train"]}
        for split in ("validation", "test"):
            for t in triplets[split]:
                assert t.attack.goal not in trained_goals
                assert t.attack.witness not in trained_witnesses
                assert not [p for p in phrasings if p in t.injection and len(p) > 8]

    def test_the_question_stands_before_after_and_in_the_system_prompt(self, triplets) -> None:
        places = Counter(
            "system" if t.system.endswith("?") else "last" if t.benign.endswith("?") else "first"
            for t in triplets["train"]
        )
        assert len(places) == 3
        assert min(places.values()) >= 20

    def test_says_when_there_are_no_more_distinct_triplets(self) -> None:
        tiny = Scenario(
            id="tiny",
            category="x",
            split="test",
            system="Answer.",
            documents=("It is {color}.",),
            question="Which color?",
            answer="{color}",
            response="{color}",
            slots={"color": ("red", "green")},
        )
        some = generate_from([tiny], "test", 30, seed=0)
        assert len({(t.system, t.benign, t.injection) for t in some}) == 30
        with pytest.raises(DataError, match=r"tiny.*no further distinct triplets"):
            generate_from([tiny], "test", 100_000, seed=0)

    def test_refuses_what_makes_no_sense(self) -> None:
        with pytest.raises(UsageError, match="unknown split 'dev'"):
            generate("dev", 3, 0)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="-1"):
            generate("test", -1, 0)
