"""Suite `builtin`: the generator's test split, whose scenarios training never sees."""

from __future__ import annotations

from llmcausal.config import DataSection
from llmcausal.data.builtin import generate
from llmcausal.data.triplet import Triplet


def triplets(data: DataSection) -> list[Triplet]:
    """Makes `data.builtin.test` triplets."""
    return generate("test", data.builtin.test, data.builtin.seed)
