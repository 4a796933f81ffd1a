"""What the micro-batches of a run's data ask for: the longest one, and their tokens on average."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass

from llmcausal.config import LossSection, RunConfig, TrainSection
from llmcausal.data.splits import epoch_order
from llmcausal.data.tokenization import EncodedTriplet
from llmcausal.memory.prediction import Workload
from llmcausal.train.batch import TripletBatch, collate
from llmcausal.train.build import needs_of

MOST_PACKED = 512
"""Triplets whose prefix trees are packed to count tokens; of larger data, an even share is."""


def data_workload(config: RunConfig, triplets: Sequence[EncodedTriplet]) -> Workload:
    """Describes the longest micro-batch that these triplets could make, or a longer one.

    Every member counts as long as the longest, and the shared prefix is what makes the tree as
    large as the mean of the largest trees, of as many as a micro-batch holds.
    """
    batch_size = min(config.train.batch_size, len(triplets))
    # A tree has at most the tokens of its members: the largest is looked for among these.
    longest = heapq.nlargest(MOST_PACKED, triplets, key=lambda each: sum(map(len, each.members)))
    batches = [_packed([triplet], config.loss) for triplet in longest]
    nodes = heapq.nlargest(batch_size, (len(batch.tokens) for batch in batches))
    mean = -(-sum(nodes) // len(nodes))
    members = max(len(batch.spans) for batch in batches)
    length = max(triplet.longest for triplet in triplets)
    labels = max(max(batch.label_counts.values(), default=1) for batch in batches)
    shared = 0
    if members > 1:
        shared = max(0, min((members * length - mean) // (members - 1), length - 1))
    return Workload(length, shared, min(labels, length - 1), batch_size)


def largest_rows(config: RunConfig, triplets: Sequence[EncodedTriplet]) -> list[EncodedTriplet]:
    """Returns the triplets with the largest trees, as many as a micro-batch holds."""
    return heapq.nlargest(
        config.train.batch_size,
        triplets,
        key=lambda triplet: len(_packed([triplet], config.loss).tokens),
    )


def _packed(triplets: Sequence[EncodedTriplet], loss: LossSection) -> TripletBatch:
    return collate(triplets, needs_of(loss), loss.pooling)


@dataclass(frozen=True)
class Tokens:
    """What one micro-batch asks the model to compute, on average over some.

    Attributes:
        nodes: Tokens of its prefix tree.
        tree_pairs: Query-key pairs of attention over the tree: each node with itself and with each
            of its ancestors. Kernels also compute the hidden pairs of tiles that are partly seen.
        separate: Tokens of all members run on their own, with their pairs.
        again: Tokens of the members that `one_by_one` runs twice, with their pairs.
        labels: Positions whose logits are scored.
    """

    triplets: float
    nodes: float
    tree_pairs: float
    separate: float
    separate_pairs: float
    again: float
    again_pairs: float
    labels: float


def tokens_of(batch: TripletBatch) -> Tokens:
    """Counts what one packed micro-batch asks for."""
    lengths = [len(span.tokens) for span in batch.spans]
    again = [len(span.tokens) for span in batch.spans if span.member != "benign"]
    return Tokens(
        triplets=len(batch),
        nodes=len(batch.tokens),
        tree_pairs=int(batch.positions.sum()) + len(batch.positions),
        separate=sum(lengths),
        separate_pairs=_causal_pairs(lengths),
        again=sum(again),
        again_pairs=_causal_pairs(again),
        labels=sum(batch.label_counts.values()),
    )


def _causal_pairs(lengths: Sequence[int]) -> int:
    return sum(length * (length + 1) // 2 for length in lengths)


def mean_tokens(micro_batches: Iterable[Sequence[EncodedTriplet]], loss: LossSection) -> Tokens:
    """Packs at least one micro-batch; returns what they ask for on average."""
    counts = [astuple(tokens_of(_packed(rows, loss))) for rows in micro_batches]
    return Tokens(*(sum(column) / len(counts) for column in zip(*counts, strict=True)))


def first_epoch(
    section: TrainSection, triplets: Sequence[EncodedTriplet]
) -> list[list[EncodedTriplet]]:
    """Returns micro-batches of the first epoch, in order; an even share if they are many."""
    size = section.batch_size
    order = epoch_order(len(triplets), section.seed, 0)
    starts = range(0, len(order), size)
    stride = max(1, len(starts) * size // MOST_PACKED)
    return [
        [triplets[index] for index in order[start : start + size]] for start in starts[::stride]
    ]
