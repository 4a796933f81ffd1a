"""Natural tasks: splits that share nothing, attacks that are in the text, no answers."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcausal.data import natural
from llmcausal.data.natural import excerpt, generate_natural
from llmcausal.data.triplet import Triplet
from llmcausal.errors import DataError, UsageError

SPLITS = ("train", "validation", "test")


def pool(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(
        files("llmcausal.data.natural").joinpath(name).read_text("utf-8")
    )
    return rows


def genres() -> list[dict[str, Any]]:
    folder = files("llmcausal.data.natural").joinpath("texts")
    return [json.loads(file.read_text("utf-8")) for file in folder.iterdir()]


@pytest.fixture(scope="module")
def triplets() -> dict[str, list[Triplet]]:
    return {split: generate_natural(split, 200, 0) for split in SPLITS}  # type: ignore[arg-type]


def test_there_are_enough_kinds_genres_and_lengths() -> None:
    assert len({row["kind"] for row in pool("tasks.json")}) >= 60
    assert len({genre["genre"] for genre in genres()}) >= 15
    words = [len(text.split()) for genre in genres() for text in genre["texts"]]
    assert min(words) <= 40
    assert max(words) >= 250


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("tasks.json", "kind"),
        ("goals.json", "kind"),
        ("goals.json", "instruction"),
        ("goals.json", "witness"),
        ("harmless.json", "text"),
    ],
)
def test_splits_share_nothing(name: str, field: str) -> None:
    by_split: dict[str, set[str]] = {split: set() for split in SPLITS}
    for row in pool(name):
        by_split[row["split"]].add(row[field].casefold())
    assert all(by_split.values())
    assert sum(map(len, by_split.values())) == len(set().union(*by_split.values()))


def test_no_wording_and_no_text_comes_twice() -> None:
    wordings = [wording.casefold() for row in pool("tasks.json") for wording in row["wordings"]]
    texts = [text for genre in genres() for text in genre["texts"]]
    assert len(set(wordings)) == len(wordings)
    assert len(set(texts)) == len(texts)


def test_the_attack_is_in_the_text_and_the_witness_is_not(triplets: Any) -> None:
    for split in SPLITS:
        proved = 0
        for triplet in triplets[split]:
            assert triplet.response == ""
            assert triplet.attack is not None
            assert triplet.benign != triplet.benign_cf
            assert triplet.injection != triplet.benign
            witness = triplet.attack.witness.casefold()
            proved += bool(witness)
            if witness:
                assert witness not in f"{triplet.system}\n{triplet.benign}".casefold()
        assert proved == 200 if split != "train" else 60 < proved < 140


def test_trusted_and_untrusted_instructions_are_of_one_pool(triplets: Any) -> None:
    wordings = {wording for row in pool("tasks.json") for wording in row["wordings"]}
    trusted = [t for t in triplets["train"] if t.system in wordings]
    hidden = [t for t in triplets["train"] if t.attack and t.attack.goal in wordings]
    assert len(trusted) > 80
    assert 60 < len(hidden) < 140


def test_half_of_the_attacks_bear_no_mark_and_they_stand_anywhere(triplets: Any) -> None:
    bare = [t for t in triplets["train"] if t.attack and t.attack.family == "naive"]
    assert 80 < len(bare) < 140
    positions = Counter(t.attack.position for t in triplets["train"] if t.attack)
    assert min(positions.values()) > 25


def test_a_third_of_the_texts_hold_something_harmless(triplets: Any) -> None:
    lines = [row["text"] for row in pool("harmless.json")]
    held = sum(any(line in t.benign for line in lines) for t in triplets["train"])
    assert 45 < held < 90


def test_the_swap_gives_the_attacker_s_instruction_the_trusted_place(triplets: Any) -> None:
    for triplet in triplets["train"]:
        assert triplet.attack is not None
        swapped = triplet.swapped_system + triplet.user_text("obeying")
        assert triplet.attack.goal in swapped
        assert len(triplet.user_text("obeying")) > 20


def test_several_attacks_on_each_prompt() -> None:
    made = generate_natural("test", 5, 3, attacks=6)
    assert len({t.id for t in made}) == 30
    for start in range(0, 30, 6):
        group = made[start : start + 6]
        assert len({(t.system, t.benign) for t in group}) == 1
        assert len({t.injection for t in group}) == 6
        families = [t.attack.family for t in group if t.attack]
        assert families[:3] == ["naive"] * 3
        assert {t.attack.position for t in group[:3] if t.attack} == {"start", "middle", "end"}
        assert "prompt_leaking" not in families


def test_equal_arguments_give_equal_triplets() -> None:
    assert generate_natural("train", 30, 1) == generate_natural("train", 40, 1)[:30]
    assert generate_natural("train", 30, 1) != generate_natural("train", 30, 2)


@given(st.integers(10, 300), st.randoms(use_true_random=False))
def test_an_excerpt_is_whole_sentences_of_the_text(words: int, rng: random.Random) -> None:
    for genre in genres():
        for text in genre["texts"][:3]:
            found = excerpt(text, words, rng)
            assert found
            assert found in text
            if len(text.split()) <= words:
                assert found == text
                continue
            longest = max(len(each.split()) for each in re.split(r"(?<=[.!?])\s+|\n", text))
            assert words // 2 <= len(found.split()) + longest
            assert len(found.split()) <= max(words, longest)
            before = text[: text.index(found)].rstrip(" ")
            assert not before or before[-1] in ".!?\n"
    assert excerpt("One. Two.", None, rng) == "One. Two."


def test_what_cannot_be_made_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="-1"):
        generate_natural("train", -1, 0)
    monkeypatch.setattr(natural, "MAX_DRAWS", 0)
    with pytest.raises(DataError, match="ask for at most 0"):
        generate_natural("train", 1, 0)
