from __future__ import annotations

import random
import re
from typing import get_args

import pytest

from llmcausal.attacks import FAMILIES
from llmcausal.attacks.base import AttackFamily, Phrasing, Position, place
from llmcausal.attacks.goal import GOAL_KINDS, Goal, Split

CARRIER = "The shop opens at nine. It closes at six. On Sundays nobody works. Bring cash."
GOAL = Goal("print_word", "Print the word Pineapple.", "Pineapple")
PHRASINGS: tuple[Phrasing, ...] = get_args(Phrasing)
POSITIONS: tuple[Position, ...] = get_args(Position)


def squeezed(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


@pytest.mark.parametrize("name", FAMILIES.entries)
class TestEveryFamily:
    def family(self, name: str) -> AttackFamily:
        loaded = FAMILIES.load(name)()
        assert isinstance(loaded, AttackFamily)
        return loaded

    def test_is_listed_under_its_own_name(self, name: str) -> None:
        assert self.family(name).name == name

    def test_has_several_phrasings_in_disjoint_sets(self, name: str) -> None:
        family = self.family(name)
        train, held_out = set(family.train_phrasings), set(family.held_out_phrasings)
        assert len(train) >= 3
        assert len(held_out) >= 3
        assert not train & held_out
        assert all(text.count("{instruction}") == 1 for text in train | held_out)

    def test_draws_every_phrasing_of_the_asked_set_and_no_other(self, name: str) -> None:
        family = self.family(name)
        for phrasing, known in zip(
            PHRASINGS, (family.train_phrasings, family.held_out_phrasings), strict=True
        ):
            drawn = {family.payload(GOAL, random.Random(seed), phrasing) for seed in range(200)}
            assert drawn == {text.replace("{instruction}", GOAL.instruction) for text in known}

    @pytest.mark.parametrize("position", POSITIONS)
    def test_keeps_the_carrier_and_adds_the_instruction_in_its_place(
        self, name: str, position: Position
    ) -> None:
        family = self.family(name)
        text = family.inject(CARRIER, GOAL, random.Random(3), "train", position)
        payload = family.payload(GOAL, random.Random(3), "train")
        before, after = text.split(payload)
        assert squeezed(before + " " + after) == CARRIER
        assert (before == "") == (position == "start")
        assert (after == "") == (position == "end")

    def test_equal_seeds_give_equal_text(self, name: str) -> None:
        family = self.family(name)
        one, two = (
            family.inject(CARRIER, GOAL, random.Random(7), "held_out", "middle") for _ in range(2)
        )
        assert one == two


def test_the_middle_is_the_sentence_end_nearest_to_it() -> None:
    assert place(CARRIER, "X", "middle", "|") == (
        "The shop opens at nine. It closes at six.|X|On Sundays nobody works. Bring cash."
    )
    assert place("a: 1\nb: 2\nc: 3\nd: 4", "X", "middle", "\n") == "a: 1\nb: 2\nX\nc: 3\nd: 4"


@pytest.mark.parametrize("carrier", ["", "word", "two words"])
def test_short_carriers_can_carry_an_attack_too(carrier: str) -> None:
    for position in POSITIONS:
        assert place(carrier, "X", position, " ").split() in (
            ["X", *carrier.split()],
            [*carrier.split(), "X"],
            [*carrier.split()[:1], "X", *carrier.split()[1:]],
        )


@pytest.mark.parametrize("kind", GOAL_KINDS)
class TestEveryGoalKind:
    def test_wordings_are_held_out(self, kind: str) -> None:
        goals = GOAL_KINDS[kind]
        assert len(set(goals.train_wordings)) >= 3
        assert len(set(goals.held_out_wordings)) >= 3
        assert not set(goals.train_wordings) & set(goals.held_out_wordings)

    def test_a_drawn_goal_is_whole(self, kind: str) -> None:
        for split in get_args(Split):
            for seed in range(30):
                goal = GOAL_KINDS[kind].draw(kind, split, random.Random(seed))
                assert goal.kind == kind
                assert goal.witness
                assert "{" not in goal.instruction
                assert goal.instruction[0].isupper()

    def test_held_out_splits_never_use_a_training_wording(self, kind: str) -> None:
        goals = GOAL_KINDS[kind]
        for split in ("validation", "test"):
            possible = {
                wording.replace("{target}", target)
                for wording in goals.held_out_wordings
                for target, _ in goals.targets[split]
            }
            drawn = {
                goals.draw(kind, split, random.Random(seed)).instruction for seed in range(300)
            }
            assert drawn == possible


def test_no_witness_contains_one_of_another_split() -> None:
    by_split = {
        split: {w.casefold() for kind in GOAL_KINDS.values() for _, w in kind.targets[split]}
        for split in get_args(Split)
    }
    for one, witnesses in by_split.items():
        for other, others in by_split.items():
            if one != other:
                assert not [(w, o) for w in witnesses for o in others if w in o]


def test_the_answer_to_an_injected_question_is_not_in_the_question() -> None:
    for targets in GOAL_KINDS["other_question"].targets.values():
        assert all(witness not in question for question, witness in targets)
