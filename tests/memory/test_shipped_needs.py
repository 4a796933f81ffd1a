from __future__ import annotations

import pytest

from llmcausal.memory.budget import card_budget
from llmcausal.memory.plan import UNKNOWN_SHARED, Predictor
from llmcausal.memory.shipped_needs import PROFILES, describe, predict_need, shipped_needs
from llmcausal.profile import load_config

OWN_CARD = {"rtx4050": 6, "llama2-7b-6gb": 6, "minimal-4gb": 4, "quality-12gb": 12}


@pytest.mark.parametrize("profile", PROFILES)
def test_kept_predictions_are_of_the_profiles_as_they_are(profile: str) -> None:
    kept = shipped_needs()[profile]
    described = describe(load_config(profile))
    assert kept.items() >= described.items(), "run `python docs/cards.py`"


@pytest.mark.parametrize("profile", PROFILES)
def test_each_profile_fits_its_own_card(profile: str) -> None:
    budget = card_budget(OWN_CARD[profile]).bytes
    assert min(s["needed_bytes"] for s in shipped_needs()[profile]["strategies"]) <= budget


@pytest.mark.slow
def test_kept_predictions_are_what_is_predicted() -> None:
    config = load_config("minimal-4gb")
    assert (
        predict_need(config, Predictor("cuda", shared=UNKNOWN_SHARED))
        == shipped_needs()["minimal-4gb"]
    )
