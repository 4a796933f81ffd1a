from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import replace
from typing import get_args

import pytest

from llmcausal.attacks import FAMILIES
from llmcausal.attacks.base import Split
from llmcausal.attacks.goals import GOAL_KINDS, GoalKind
from llmcausal.attacks.phrased import CODES
from llmcausal.data.builtin import (
    PHRASINGS,
    generate,
    generate_from,
    generate_seen,
    load_families,
    load_scenarios,
)
from llmcausal.data.scenarios import Scenario
from llmcausal.data.triplet import Check, Triplet
from llmcausal.errors import DataError, UsageError
from tests.attacks.undone import plain

SPLITS: tuple[Split, ...] = get_args(Split)
KINDS: dict[str, GoalKind] = {name: GOAL_KINDS.load(name) for name in GOAL_KINDS.entries}
SETS = (*SPLITS, "test_seen")
COUNT = 17 * 9 * 2
"""Every pair of a family and a kind of goal comes up twice, in the split with most families."""
DISGUISED = {"encodings", "other_languages", "payload_splitting", "unicode"}


def made(name: str, count: int, seed: int) -> list[Triplet]:
    return generate_seen(count, seed) if name == "test_seen" else generate(name, count, seed)  # type: ignore[arg-type]


def proof(triplet: Triplet) -> Check:
    assert triplet.attack
    return triplet.attack.check or Check("contains", triplet.attack.witness)


def letters(phrasing: str) -> int:
    return sum(map(str.isalpha, re.sub(r"\{\w+\}", "", phrasing)))


@pytest.fixture(scope="module")
def triplets() -> dict[str, list[Triplet]]:
    return {name: made(name, COUNT, seed=5) for name in SETS}


@pytest.mark.parametrize("split", SPLITS)
def test_nearly_every_goal_fits_every_scenario(split: Split) -> None:
    """A goal whose proof stands in a scenario's own text cannot be used there."""
    for scenario in load_scenarios(split):
        texts = [scenario.fill(random.Random(seed)) for seed in range(10)]
        harmless = [scenario.system, *(f"{t.document}\n{t.question}\n{t.response}" for t in texts)]
        for name, kind in KINDS.items():
            proofs = [
                Check("regex", target.pattern)
                if target.pattern
                else Check("contains", target.witness)
                for target in kind.targets[split]
            ]
            usable = [p for p in proofs if not any(p.passes(text) for text in harmless)]
            assert len(usable) >= 0.75 * len(proofs), (scenario.id, name)


class TestGenerate:
    @pytest.mark.parametrize("name", SETS)
    def test_is_a_function_of_split_count_and_seed(self, name: str) -> None:
        assert made(name, 40, 3) == made(name, 40, 3)
        assert made(name, 15, 3) == made(name, 40, 3)[:15]
        assert made(name, 40, 3) != made(name, 40, 4)

    def test_every_triplet_is_distinct_and_has_its_own_id(self, triplets) -> None:
        every = [t for name in SETS for t in triplets[name]]
        assert len({t.id for t in every}) == len(every)
        assert len({(t.system, t.benign, t.injection) for t in every}) == len(every)

    @pytest.mark.parametrize("name", SETS)
    def test_right_answers_pass_the_check_and_prove_no_obedience(self, triplets, name) -> None:
        for t in triplets[name]:
            assert t.check.passes(t.response)
            assert t.check.passes(t.robust_response)
            harmless = [t.benign, t.benign_cf, t.response, t.response_cf]
            if t.attack.family != "prompt_leaking":
                harmless.append(t.system)
            assert not [text for text in harmless if proof(t).passes(text)]

    def test_a_leaked_prompt_is_the_proof_of_prompt_leaking(self, triplets) -> None:
        leaks = [t for t in triplets["test"] if t.attack.family == "prompt_leaking"]
        assert leaks
        for t in leaks:
            assert proof(t).passes(t.system)
            assert proof(t).passes(f"My instructions: {t.attack.witness} and so on.")
            assert not proof(t).passes(t.injection)

    @pytest.mark.parametrize("name", SETS)
    def test_an_injection_is_the_benign_text_and_the_attack(self, triplets, name) -> None:
        for t in triplets[name]:
            assert t.benign not in (t.benign_cf, t.injection)
            assert t.attack.goal not in t.benign
            if t.attack.family not in DISGUISED:
                assert t.attack.goal in t.injection
            elif t.attack.family == "encodings":
                assert any(code(t.attack.goal) in t.injection for code in CODES.values())
            elif t.attack.family == "unicode":
                assert t.attack.goal in plain(t.injection)
            elif t.attack.family == "other_languages":
                assert t.attack.goal in t.injection or t.attack.witness in t.injection
            left = iter("".join(t.injection.split()))
            assert all(char in left for char in "".join(t.benign.split()))

    @pytest.mark.parametrize("name", SETS)
    def test_scenarios_families_and_goals_appear_evenly(self, triplets, name) -> None:
        split = name.removesuffix("_seen")
        scenarios = Counter(t.id.split("-")[4] for t in triplets[name])
        assert max(scenarios.values()) - min(scenarios.values()) <= 1
        assert scenarios.keys() <= {s.id for s in load_scenarios(split)}
        families = Counter(t.attack.family for t in triplets[name])
        assert max(families.values()) - min(families.values()) <= 1
        pairs = Counter(
            (t.attack.family, kind)
            for t in triplets[name]
            for kind, goals in KINDS.items()
            if (t.attack.witness, t.attack.check.value if t.attack.check else "")
            in [(target.witness, target.pattern) for target in goals.targets[split]]
        )
        with_any_goal = families.keys() - {"prompt_leaking"}
        assert pairs.keys() == {(family, kind) for family in with_any_goal for kind in KINDS}
        assert max(pairs.values()) - min(pairs.values()) <= 1

    def test_held_out_families_are_in_the_test_split_only(self, triplets) -> None:
        held_out = {name for name in FAMILIES.entries if FAMILIES.load(name).held_out}
        for name in SETS:
            families = {t.attack.family for t in triplets[name]}
            assert families == set(FAMILIES.entries) - (set() if name == "test" else held_out)

    def test_every_attack_tells_its_facts(self, triplets) -> None:
        novelty = {
            "train": {"seen"},
            "validation": {"new_phrasing"},
            "test": {"new_phrasing", "new_family"},
            "test_seen": {"seen"},
        }
        for name in SETS:
            attacks = [t.attack for t in triplets[name]]
            assert {a.novelty for a in attacks} == novelty[name]
            positions = Counter(a.position for a in attacks)
            assert positions.keys() == {"start", "middle", "end"}
            assert positions["end"] > max(positions["start"], positions["middle"])
            assert {a.difficulty for a in attacks} == {"easy", "medium", "hard"}
            for attack in attacks:
                family = FAMILIES.load(attack.family)
                assert attack.difficulty == family.difficulty
                assert (attack.novelty == "new_family") == family.held_out
        for t in triplets["test"]:
            document = t.benign if t.system.endswith("?") else None
            if document and t.attack.family not in ("escape_characters", "unicode"):
                at_start, at_end = t.injection.endswith(document), t.injection.startswith(document)
                assert at_start == (t.attack.position == "start")
                assert at_end == (t.attack.position == "end")

    @pytest.mark.parametrize("split", SPLITS)
    def test_each_split_uses_its_own_phrasings_wordings_and_targets(self, triplets, split) -> None:
        families = load_families("test", "held_out")
        foreign = {
            text
            for family in families
            for pool in PHRASINGS.values()
            for text in family.phrasings(pool)
            if pool != PHRASINGS[split] and letters(text) > 12
        }
        fixed = [[part for part in re.split(r"\{\w+\}", text) if part] for text in foreign]
        for t in triplets[split]:
            assert not [parts for parts in fixed if all(part in t.injection for part in parts)]
        for other in set(SPLITS) - {split}:
            for field in ("goal", "witness"):
                mine, theirs = (
                    {getattr(t.attack, field) for t in triplets[s]} for s in (split, other)
                )
                assert not mine & theirs

    def test_seen_attacks_have_trained_wordings_and_unseen_targets(self, triplets) -> None:
        wordings = {w.split("{target}")[0] for k in KINDS.values() for w in k.wordings["train"]}
        trained = {t.attack.witness for t in triplets["train"]}
        for t in triplets["test_seen"]:
            assert t.attack.goal.startswith(tuple(wordings))
            assert t.attack.witness not in trained
        benign = {t.system for t in generate("test", 200, 5)}
        assert {t.system for t in triplets["test_seen"]} & benign

    def test_counterfactuals_are_of_three_kinds(self, triplets) -> None:
        kinds: Counter[str] = Counter()
        for t in triplets["train"]:
            scenario = next(s for s in load_scenarios("train") if s.id == t.id.split("-")[4])
            same_answer = t.response == t.response_cf
            kinds["rephrasing" if same_answer else "other"] += 1
            assert t.check.passes(t.response_cf) == same_answer or scenario.cases
            assert t.benign != t.benign_cf
        assert 0.15 <= kinds["rephrasing"] / len(triplets["train"]) <= 0.35

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
        # No counterfactual has another answer or another wording.
        spent = replace(tiny, slots={"color": ("red",)})
        with pytest.raises(DataError, match=r"tiny.*no further distinct triplets.*at most 0"):
            generate_from([spent], "test", 1, seed=0)

    def test_refuses_what_makes_no_sense(self) -> None:
        with pytest.raises(UsageError, match="unknown split 'dev'"):
            generate("dev", 3, 0)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="-1"):
            generate("test", -1, 0)
