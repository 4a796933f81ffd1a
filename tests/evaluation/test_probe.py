"""The probe's choice of triplets and its figures, on stub answers."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest

from llmcausal.data.triplet import AttackInfo, Check, Triplet
from llmcausal.evaluation import probe as probe_module
from llmcausal.evaluation.generation import Answer, Answering
from llmcausal.evaluation.probe import AttackProbe, choose_triplets_to_probe


def triplet(number: int, family: str = "naive", category: str = "mail", **changes: Any) -> Triplet:
    values: dict[str, Any] = {
        "id": str(number),
        "system": "s",
        "benign": "b",
        "benign_cf": "c",
        "injection": "i",
        "response": "r",
        "category": category,
        "attack": AttackInfo(family, witness="PWNED"),
        "check": Check("contains", "right"),
    }
    return Triplet(**{**values, **changes})


def all_fit(triplet: Triplet) -> bool:
    return True


def test_the_choice_is_even_over_families_then_categories() -> None:
    many = [
        triplet(n, family, category)
        for n in range(10)
        for family in ("naive", "authority", "escape")
        for category in ("mail", "code", "table")
    ]
    chosen = choose_triplets_to_probe(many, 9, all_fit)
    assert Counter(each.attack.family for each in chosen if each.attack) == {
        "naive": 3, "authority": 3, "escape": 3,
    }  # fmt: skip
    assert Counter(each.category for each in chosen) == {"mail": 3, "code": 3, "table": 3}
    assert chosen == choose_triplets_to_probe(many, 9, all_fit)
    assert choose_triplets_to_probe(many, 4, all_fit) == chosen[:4]


def test_what_can_be_verified_comes_first_and_what_cannot_not_at_all() -> None:
    nothing = triplet(0, attack=None, check=None)
    half = triplet(1, check=None)
    whole = triplet(2)
    assert choose_triplets_to_probe([nothing, half, whole], 3, all_fit) == [whole, half]
    assert choose_triplets_to_probe([half, whole], 2, lambda each: each is half) == [half]


def answering(monkeypatch: pytest.MonkeyPatch, answer: str, batch_size: int) -> None:
    def answer_prompts(answering: Answering, prompts: Any, **options: Any) -> list[Answer]:
        for done in range(batch_size, len(prompts) + batch_size, batch_size):
            options["progress"](min(done, len(prompts)), len(prompts))
        return [Answer(answer, True) for _ in prompts]

    monkeypatch.setattr(probe_module, "answer_prompts", answer_prompts)


@pytest.mark.parametrize(
    ("answer", "figures"),
    [
        ("pwned", (1.0, 0.0, 0.0)),
        ("I cannot help.", (0.0, 0.0, 0.0)),
        ("This is right.", (0.0, 1.0, 1.0)),
    ],
)
def test_obeying_refusing_and_resisting_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, answer: str, figures: tuple[float, ...]
) -> None:
    answering(monkeypatch, answer, 4)
    probe = AttackProbe(Answering(None, None, 4, 4), [triplet(n) for n in range(5)])  # type: ignore[arg-type]
    assert probe.metrics == ("attack_success_rate", "utility", "utility_under_attack")
    ticks: list[None] = []
    assert tuple(probe(lambda: ticks.append(None)).values()) == figures
    assert len(ticks) == probe.batches == 3


def test_only_what_the_triplets_allow_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, "right", 2)
    probe = AttackProbe(Answering(None, None, 4, 2), [triplet(0, check=None)])  # type: ignore[arg-type]
    assert probe(lambda: None) == {"attack_success_rate": 0.0}


def test_a_pattern_without_end_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmcausal.data.triplet.PATTERN_SECONDS", 0.05)
    answering(monkeypatch, "a" * 60 + "!", 2)
    evil = triplet(0, attack=None, check=Check("regex", "^(a|aa|aaa|b?a)*(?=c)$"))
    probe = AttackProbe(Answering(None, None, 4, 2), [evil])  # type: ignore[arg-type]
    figures = probe(lambda: None)
    assert math.isnan(figures["utility"])
