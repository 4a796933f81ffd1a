"""The table of kept layers is what `docs/kept.py` predicts."""

from __future__ import annotations

import sys

import pytest

from llmcausal.memory.plan import Predictor
from tests.docs.shown import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "docs"))

import kept


@pytest.mark.slow
def test_a_row_of_kept_layers_is_what_is_predicted() -> None:
    load, (card, *_) = kept.CASES[-1]
    assert kept.row(load, card, Predictor("cuda")) in kept.PAGE.read_text(encoding="utf-8")
