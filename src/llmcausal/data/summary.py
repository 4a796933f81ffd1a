"""Counts and lengths of a set of triplets."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from llmcausal.attacks.goals import GOAL_KINDS
from llmcausal.data.triplet import AttackInfo, Triplet

MEASURED_FIELDS = (
    "system",
    "context",
    "benign",
    "benign_cf",
    "injection",
    "response",
    "robust_response",
)
DRAWN_FIELDS = ("benign", "injection", "response")
"""Fields with a histogram of lengths."""
BINS = 10


@dataclass(frozen=True)
class Lengths:
    """A text field's lengths, in characters."""

    shortest: int
    median: int
    longest: int


@dataclass(frozen=True)
class Histogram:
    """Texts in each bin [bins], and bounds in characters [bins + 1], the lower one inclusive."""

    edges: list[int]
    counts: list[int]


@dataclass(frozen=True)
class DatasetSummary:
    count: int
    # Triplets by name; an empty name counts those without one.
    categories: dict[str, int]
    families: dict[str, int]
    positions: dict[str, int]
    difficulties: dict[str, int]
    novelties: dict[str, int]
    goal_kinds: dict[str, int]
    checked: int  # triplets with a verifiable answer
    witnessed: int  # triplets with a verifiable attack
    lengths: dict[str, Lengths]
    histograms: dict[str, Histogram]


def summarize(triplets: Sequence[Triplet]) -> DatasetSummary:
    attacks = [triplet.attack for triplet in triplets]
    kinds = {
        target.witness.casefold(): name
        for name in GOAL_KINDS.entries
        for targets in GOAL_KINDS.load(name).targets.values()
        for target in targets
    }

    def count(of: Callable[[AttackInfo], str]) -> dict[str, int]:
        return dict(Counter(of(attack) if attack else "" for attack in attacks).most_common())

    return DatasetSummary(
        count=len(triplets),
        categories=dict(Counter(triplet.category for triplet in triplets).most_common()),
        families=count(lambda attack: attack.family),
        positions=count(lambda attack: attack.position),
        difficulties=count(lambda attack: attack.difficulty),
        novelties=count(lambda attack: attack.novelty),
        goal_kinds=count(lambda attack: kinds.get(attack.witness.casefold(), "")),
        checked=sum(triplet.check is not None for triplet in triplets),
        witnessed=sum(bool(attack and (attack.witness or attack.check)) for attack in attacks),
        lengths={name: _lengths(triplets, name) for name in MEASURED_FIELDS},
        histograms={name: _histogram(triplets, name) for name in DRAWN_FIELDS},
    )


def _lengths(triplets: Sequence[Triplet], name: str) -> Lengths:
    lengths = [len(getattr(triplet, name)) for triplet in triplets] or [0]
    return Lengths(min(lengths), round(statistics.median(lengths)), max(lengths))


def _histogram(triplets: Sequence[Triplet], name: str) -> Histogram:
    lengths = [len(getattr(triplet, name)) for triplet in triplets]
    if not lengths:
        return Histogram([0, 0], [0])
    low, high = min(lengths), max(lengths)
    width = math.ceil((high + 1 - low) / BINS)
    edges = list(range(low, high + width + 1, width))
    return Histogram(edges, np.histogram(lengths, edges)[0].tolist())
