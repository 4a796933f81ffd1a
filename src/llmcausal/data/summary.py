"""What a set of triplets holds, in numbers."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from llmcausal.data.triplet import Triplet

MEASURED_FIELDS = (
    "system",
    "context",
    "benign",
    "benign_cf",
    "injection",
    "response",
    "robust_response",
)


@dataclass(frozen=True)
class Lengths:
    """Lengths of one text field, in characters."""

    shortest: int
    median: int
    longest: int


@dataclass(frozen=True)
class DatasetSummary:
    """Counts and lengths of a set of triplets.

    Attributes:
        count: Number of triplets.
        categories: Triplets of each category; the empty name where none is given.
        families: Triplets of each attack family; the empty name where none is given.
        checked: Triplets whose answer can be verified.
        witnessed: Triplets whose attack has a witness.
        lengths: Text lengths by field; all 0 where there are no triplets.
    """

    count: int
    categories: dict[str, int]
    families: dict[str, int]
    checked: int
    witnessed: int
    lengths: dict[str, Lengths]


def summarize(triplets: Sequence[Triplet]) -> DatasetSummary:
    """Counts triplets by category and attack family, most frequent first, and measures texts."""
    categories = Counter(triplet.category for triplet in triplets)
    families = Counter(triplet.attack.family if triplet.attack else "" for triplet in triplets)
    return DatasetSummary(
        count=len(triplets),
        categories=dict(categories.most_common()),
        families=dict(families.most_common()),
        checked=sum(triplet.check is not None for triplet in triplets),
        witnessed=sum(bool(triplet.attack and triplet.attack.witness) for triplet in triplets),
        lengths={name: _lengths(triplets, name) for name in MEASURED_FIELDS},
    )


def _lengths(triplets: Sequence[Triplet], name: str) -> Lengths:
    lengths = [len(getattr(triplet, name)) for triplet in triplets] or [0]
    return Lengths(min(lengths), round(statistics.median(lengths)), max(lengths))
