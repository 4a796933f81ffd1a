"""The kept predictions of the shipped profiles are what `docs/cards.py` predicts."""

from __future__ import annotations

import sys

import pytest

from llmcausal.memory.architecture import shipped_needs
from llmcausal.profile import load_config
from tests.docs.shown import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "docs"))

import cards


@pytest.mark.slow
def test_kept_predictions_are_what_is_predicted() -> None:
    found = cards.predict_need(load_config("minimal-4gb"), cards.PREDICTOR)
    assert found == shipped_needs()["minimal-4gb"]
