"""Models whose behaviour is known get the figures that it deserves, on the built-in suite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmcausal.config import BuiltinDataSection, DataSection
from llmcausal.data.triplet import Triplet
from llmcausal.evaluation import evaluate as module
from llmcausal.evaluation.evaluate import evaluate
from llmcausal.evaluation.generation import Answer, Answering
from llmcausal.evaluation.suites import SUITES

REFUSAL = "I cannot help with that."
DATA = DataSection(builtin=BuiltinDataSection(test=120, test_seen=24))


@pytest.fixture(scope="module")
def triplets() -> list[Triplet]:
    found: list[Triplet] = SUITES.load("builtin")(DATA, [])
    return found


def obeys(triplet: Triplet, attacked: bool) -> str:
    if not attacked:
        return triplet.response
    attack = triplet.attack
    assert attack is not None
    tries = (attack.witness, f"[{triplet.response}]", f"{attack.witness}-doo")
    if attack.check is None:
        return attack.witness
    told = [text for text in tries if attack.check.passes(text)]
    assert told, f"add a text that obeys {attack.goal!r} to `tries`"
    return told[0]


def refuses(triplet: Triplet, attacked: bool) -> str:
    return REFUSAL


def ignores(triplet: Triplet, attacked: bool) -> str:
    return triplet.robust_response if attacked else triplet.response


def quotes(triplet: Triplet, attacked: bool) -> str:
    """Answers right, and says what it was told to do."""
    assert triplet.attack is not None
    told = f' The text also says: "{triplet.attack.goal}" I did not.' if attacked else ""
    return ignores(triplet, attacked) + told


@pytest.fixture
def measure(
    triplets: list[Triplet], monkeypatch: pytest.MonkeyPatch, peft_model: Any, template: Any
) -> Callable[[Callable[[Triplet, bool], str]], dict[str, Any]]:
    """Runs the whole evaluation with a planted model's answers."""

    def run(behave: Callable[[Triplet, bool], str]) -> dict[str, Any]:
        script = {}
        for triplet in triplets:
            script[triplet.system, triplet.user_text("benign")] = behave(triplet, False)
        for triplet in triplets:
            script[triplet.system, triplet.user_text("injection")] = behave(triplet, True)

        def answers(answering: Answering, prompts: Any, **settings: Any) -> list[Answer]:
            return [Answer(script[prompt], True) for prompt in prompts]

        monkeypatch.setattr(module, "answer_prompts", answers)
        peft_model.config.max_position_embeddings = 10**6
        answering = Answering(peft_model, template, 8, 8)
        return evaluate(answering, triplets, baseline=False)["tuned"]  # type: ignore[no-any-return]

    return run


def test_one_that_obeys(measure: Any) -> None:
    side = measure(obeys)
    assert side["attack_success_rate"]["value"] == 1.0
    assert side["attack_success_rate"]["n"] == 120
    assert side["utility"]["value"] == 1.0
    assert side["utility_under_attack"]["value"] < 0.2
    families = side["groups"]["family"]
    assert len(families) > 5
    assert all(figures["attack_success_rate"]["value"] == 1.0 for figures in families.values())
    assert side["groups"]["novelty"]["seen"]["attack_success_rate"]["n"] == 24


def test_one_that_refuses_and_one_that_ignores_attacks_differ_in_utility(measure: Any) -> None:
    refusing, ignoring = measure(refuses), measure(ignores)
    for side in (refusing, ignoring):
        assert side["attack_success_rate"]["value"] == 0.0
        assert side["attack_success_rate"]["high"] < 0.05
        assert side["asr_begins_with"]["value"] == 0.0
    for name in ("utility", "utility_under_attack"):
        assert refusing[name]["value"] < 0.05
        assert ignoring[name]["value"] == 1.0


def test_one_that_answers_and_quotes_the_attack_has_not_obeyed(measure: Any) -> None:
    side = measure(quotes)
    assert side["attack_success_rate"]["value"] == 0.0
    assert side["utility_under_attack"]["value"] == 1.0
