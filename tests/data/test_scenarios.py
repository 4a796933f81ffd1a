from __future__ import annotations

import itertools
import random
import re
import string
from collections import Counter
from dataclasses import replace
from typing import Any, get_args

import pytest

from llmcausal.attacks.base import Split
from llmcausal.attacks.goals import GOAL_KINDS
from llmcausal.data.scenarios import Filling, Scenario, pools, themes
from llmcausal.data.triplet import Check

SPLITS: tuple[Split, ...] = get_args(Split)
ALL: list[Scenario] = [scenario for theme in themes().values() for scenario in theme]
POOLS = {split: pools(split) for split in SPLITS}
COUNTS = {"one", "two", "three", "four", "five", "six", "seven", "eight", "nine"}
SEEDS = 50
SHINGLE = 3
SIMILAR = 0.2
"""Share of common word triples from which two texts count as copies of each other."""


def _fillings(scenario: Scenario) -> list[Filling]:
    return [scenario.fill(random.Random(seed)) for seed in range(SEEDS)]


def _by_id(scenarios: list[Scenario]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("scenario", scenarios, ids=lambda scenario: scenario.id)


def _wordings(scenario: Scenario) -> list[str]:
    """The document in each wording, filled."""
    rng = random.Random(7)
    return [replace(scenario, documents=(text,)).fill(rng).document for text in scenario.documents]


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.casefold())
    return {tuple(words[i : i + SHINGLE]) for i in range(len(words) - SHINGLE + 1)}


def _overlap(one: set[tuple[str, ...]], two: set[tuple[str, ...]]) -> float:
    return len(one & two) / max(1, min(len(one), len(two)))


class TestFill:
    def test_slots_of_one_pool_never_get_equal_values(self) -> None:
        scenario = _scenario("{person} and {person_2} and {person_3}")
        for filling in _fillings(scenario):
            assert len(set(filling.document.split(" and "))) == 3

    def test_the_values_of_a_case_are_drawn_together(self) -> None:
        scenario = _scenario(
            "{text}",
            cases=(
                {"text": ("Come to {city}.", "See {city}!"), "label": "PLACE"},
                {"text": "Ask {person}.", "label": "HUMAN"},
            ),
        )
        fillings = _fillings(scenario)
        assert {f.answer for f in fillings} == {"PLACE", "HUMAN"}
        assert {f.document.split()[0] for f in fillings} == {"Come", "See", "Ask"}
        for filling in fillings:
            assert (filling.answer == "HUMAN") == filling.document.startswith("Ask ")
            assert "{" not in filling.document

    def test_a_short_answer_is_checked_as_a_whole_word(self) -> None:
        def passes(answer: str, reply: str) -> bool:
            return Filling("", "", answer, answer).check.passes(reply)

        assert passes("no", "No, it is not.")
        assert not passes("no", "I know it now.")
        assert passes("$48", "It is $48.")
        assert not passes("$48", "It is $480.")
        assert passes("Maria Lopez", "maria lopez's desk")

    def test_an_answer_is_as_right_without_its_article(self) -> None:
        check = Filling("", "", "the signed form", "the signed form").check
        assert check.passes("Signed form.")
        assert check.passes("Bring the signed form.")
        assert not check.passes("Bring the form.")
        assert Filling("", "", "the army", "the army").check.passes("Army")
        assert not Filling("", "", "A Map of Rain", "x").check.passes("Map of Rain")

    def test_repeating_the_labels_is_no_answer(self) -> None:
        cases = ({"text": "Yes!", "label": "GRANTED"}, {"text": "Never.", "label": "REFUSED"})
        scenario = replace(
            _scenario("{text}", cases=cases), system="Say GRANTED or REFUSED.", answer="{label}"
        )
        check = next(f.check for f in _fillings(scenario) if f.answer == "GRANTED")
        assert check.passes("granted")
        assert check.passes("It was GRANTED;\nnothing was refused.")
        assert not check.passes("GRANTED or REFUSED")
        assert not check.passes("REFUSED\nGRANTED")
        assert not check.passes("NOTGRANTED")

    def test_a_common_word_is_no_label(self) -> None:
        """The label FOR would pass in almost any sentence."""
        common = {"for", "in", "on", "it", "is", "not", "to", "the", "and", "or", "at", "with"}
        answers = {f.answer.casefold() for scenario in ALL for f in _fillings(scenario)}
        assert not answers & common


def _scenario(document: str, **others: Any) -> Scenario:
    return Scenario(
        id="x",
        category="x",
        split="train",
        system="Answer.",
        documents=(document,),
        question="What?",
        answer="{label}" if "cases" in others else "{person}",
        response="{label}" if "cases" in others else "{person}",
        **others,
    )


class TestPools:
    def test_no_value_is_in_two_splits(self) -> None:
        for one, two in itertools.combinations(SPLITS, 2):
            assert POOLS[one].keys() == POOLS[two].keys()
            for pool in POOLS[one]:
                assert not set(POOLS[one][pool]) & set(POOLS[two][pool]), pool

    @pytest.mark.parametrize("split", SPLITS)
    def test_no_value_holds_another_of_its_pool(self, split: Split) -> None:
        for pool, values in POOLS[split].items():
            assert len(set(values)) == len(values) >= 6, pool
            for one, two in itertools.permutations(values, 2):
                assert one.casefold() not in two.casefold(), pool

    @pytest.mark.parametrize("split", SPLITS)
    def test_no_value_is_in_another_pool(self, split: Split) -> None:
        counts = Counter(value for values in POOLS[split].values() for value in set(values))
        assert max(counts.values()) == 1

    @pytest.mark.parametrize(
        ("split", "at_least"), [("train", 20), ("validation", 8), ("test", 14)]
    )
    def test_there_are_many_people_and_amounts(self, split: Split, at_least: int) -> None:
        assert len(POOLS[split]["person"]) >= at_least
        assert len(POOLS[split]["amount"]) + len(POOLS[split]["price"]) >= at_least


class TestCatalog:
    def test_there_are_at_least_200_scenarios_in_fit_shares(self) -> None:
        counts = Counter(scenario.split for scenario in ALL)
        assert len(ALL) >= 200
        assert counts["train"] >= 0.5 * len(ALL)
        assert counts["test"] >= 0.28 * len(ALL)
        assert counts["validation"] >= 0.1 * len(ALL)

    @pytest.mark.parametrize("theme", themes())
    def test_every_theme_is_in_every_split(self, theme: str) -> None:
        assert {scenario.split for scenario in themes()[theme]} == set(SPLITS)

    def test_no_two_scenarios_share_id_prompt_or_wording(self) -> None:
        for texts in (
            [scenario.id for scenario in ALL],
            [scenario.system for scenario in ALL],
            [document for scenario in ALL for document in scenario.documents],
        ):
            assert [text for text, count in Counter(texts).items() if count > 1] == []

    def test_documents_are_short_and_long(self) -> None:
        lengths = [len(text.split()) for scenario in ALL for text in _wordings(scenario)]
        assert sum(length >= 30 for length in lengths) >= 0.35 * len(lengths)
        assert sum(length >= 50 for length in lengths) >= 0.1 * len(lengths)
        assert max(lengths) <= 120

    @pytest.mark.parametrize("pair", [("train", "test"), ("train", "validation")])
    def test_no_text_is_a_near_copy_of_a_trained_one(self, pair: tuple[Split, Split]) -> None:
        trained, held_out = (
            [(s.id, _shingles(d)) for s in ALL if s.split == split for d in _wordings(s)]
            for split in pair
        )
        copies = {
            (one, two)
            for (one, trained_text), (two, other_text) in itertools.product(trained, held_out)
            if _overlap(trained_text, other_text) >= SIMILAR
        }
        assert copies == set()

    def test_no_held_out_scenario_asks_a_trained_question_of_a_trained_kind(self) -> None:
        def tasks(*splits: Split) -> set[tuple[str, str]]:
            return {(s.category, s.question.casefold()) for s in ALL if s.split in splits}

        assert tasks("train") & tasks("validation", "test") == set()

    def test_a_near_copy_would_be_seen(self) -> None:
        email = "Dear Ann, please send the plan by May 3. We need it for the next board meeting."
        copy = "Dear Bob, please send the form by July 9. We need it for the next staff meeting."
        other = "The plan of Ann was sent on May 3. She says that the board likes it very much."
        assert _overlap(_shingles(email), _shingles(copy)) >= SIMILAR
        assert _overlap(_shingles(email), _shingles(other)) < SIMILAR


class TestScenarios:
    @_by_id(ALL)
    def test_has_two_wordings_and_a_prompt_without_slots(self, scenario: Scenario) -> None:
        assert len(set(scenario.documents)) >= 2
        assert [slot for _, slot, _, _ in string.Formatter().parse(scenario.system)] == [None]

    @_by_id(ALL)
    def test_no_slot_value_is_spare(self, scenario: Scenario) -> None:
        used = {re.sub(r"_\d$", "", name) for name in scenario.slot_names()}
        assert set(scenario.slots) <= used

    @_by_id(ALL)
    def test_keys_are_those_of_every_case_and_no_slots(self, scenario: Scenario) -> None:
        for case in scenario.cases:
            assert case.keys() == scenario.cases[0].keys()
            assert not case.keys() & scenario.slots.keys()
            assert not case.keys() & POOLS[scenario.split].keys()

    @_by_id(ALL)
    def test_no_own_value_holds_another(self, scenario: Scenario) -> None:
        for values in scenario.slots.values():
            for one, two in itertools.permutations(values, 2):
                assert not Filling("", "", one, one).check.passes(two)

    @_by_id(ALL)
    def test_every_filling_is_whole(self, scenario: Scenario) -> None:
        fillings = _fillings(scenario)
        keys = {key for case in scenario.cases for key in case}
        places = [f"{{{name}}}" for name in (*scenario.slot_names(), *keys)]
        for filling in fillings:
            for text in (filling.document, filling.question, filling.answer, filling.response):
                assert text == text.strip() != ""
                assert not [place for place in places if place in text]
            assert filling.check.passes(filling.response)
            assert filling.answer.casefold() in filling.response.casefold()
            assert 1 <= len(filling.response.split()) <= 20
        assert len({filling.document for filling in fillings}) >= 10
        assert len({filling.answer for filling in fillings}) >= 2

    @_by_id(ALL)
    def test_every_answer_follows_from_the_document(self, scenario: Scenario) -> None:
        for filling in _fillings(scenario):
            asked = f"{scenario.system}\n{filling.question}"
            if filling.check.passes(filling.document):
                # A model that only repeats the task must not count as right.
                assert not filling.check.passes(asked)
            else:
                answer = filling.answer.casefold()
                assert scenario.cases
                assert answer in asked.casefold() or answer in COUNTS
                if filling.wrong:
                    assert not filling.check.passes(asked)
                    assert not filling.check.passes(" or ".join((answer, *filling.wrong)))

    @_by_id(ALL)
    def test_no_answer_passes_for_another(self, scenario: Scenario) -> None:
        fillings = _fillings(scenario)
        for one, two in itertools.product(fillings[:20], fillings[20:40]):
            if one.answer != two.answer:
                assert not one.check.passes(two.response), (one.answer, two.response)

    @_by_id(ALL)
    def test_leaves_most_goals_of_an_attacker_open(self, scenario: Scenario) -> None:
        filling = scenario.fill(random.Random(3))
        texts = [scenario.system, filling.question, filling.response, *_wordings(scenario)]
        for name in GOAL_KINDS.entries:
            targets = GOAL_KINDS.load(name).targets[scenario.split]
            proofs = [
                Check("regex", target.pattern)
                if target.pattern
                else Check("contains", target.witness)
                for target in targets
            ]
            # Where a text holds a witness, the generator has to draw another goal.
            spoiled = [proof.value for proof in proofs if any(proof.passes(t) for t in texts)]
            assert len(spoiled) <= len(targets) / 3, (name, spoiled)
