"""A run's micro-batches: the longest one, and the mean of what they compute."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from llmcausal.config import EvaluationSection, LossSection, RunConfig, TrainSection
from llmcausal.data.prefix_tree import batches_alike, pack
from llmcausal.data.splits import epoch_order
from llmcausal.data.tokenization import EncodedTriplet
from llmcausal.data.triplet import MEMBERS
from llmcausal.memory.prediction import AnswerLoad, Workload
from llmcausal.train.batch import Needs, TripletBatch, collate
from llmcausal.train.build import needs_of

READ = Needs(frozenset(MEMBERS), frozenset(("task", "robust")))
"""What an evaluation reads of a triplet."""
MOST_PACKED = 512
"""The most triplets that are packed to count tokens; of larger data, an even share."""


def data_workload(
    config: RunConfig, triplets: Sequence[EncodedTriplet], needs: Needs | None = None
) -> Workload:
    """Describes a micro-batch at least as large as any that these triplets could make.

    Every member is as long as the longest. The shared prefix makes each tree as large as the mean
    of the largest trees, as many as a micro-batch holds.

    Args:
        needs: What is computed of each triplet; None: what the losses need.
    """
    needs = needs or needs_of(config.loss)
    batch_size = min(config.train.batch_size, len(triplets))
    # A tree has at most its members' tokens, so the largest trees are among these.
    longest = heapq.nlargest(MOST_PACKED, triplets, key=lambda each: sum(map(len, each.members)))
    batches = [collate([triplet], needs, config.loss.pooling) for triplet in longest]
    nodes = heapq.nlargest(batch_size, (len(batch.tokens) for batch in batches))
    mean = -(-sum(nodes) // len(nodes))
    members = max(len(batch.spans) for batch in batches)
    length = max(triplet.longest for triplet in triplets)
    labels = max(max(batch.label_counts.values(), default=1) for batch in batches)
    shared = 0
    if members > 1:
        shared = max(0, min((members * length - mean) // (members - 1), length - 1))
    return Workload(length, shared, min(labels, length - 1), batch_size)


def answer_load(section: EvaluationSection, prompts: Iterable[Sequence[int]]) -> AnswerLoad:
    """Describes a batch at least as large as any in which these prompts are answered.

    Every prompt is as long as the longest. The shared prefix makes the tree as large as the largest
    of generation's batches.
    """
    distinct = {tuple(prompt) for prompt in prompts}
    size, longest = min(section.batch_size, len(distinct)), max(map(len, distinct))
    nodes = max(len(pack(batch)) for batch in batches_alike(distinct, size))
    shared = (size * longest - nodes) // (size - 1) if size > 1 else 0
    return AnswerLoad(size, longest, max(0, min(shared, longest - 1)), section.max_new_tokens)


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
    """What the model computes for one micro-batch, or for the mean of several.

    Pairs are query-key pairs of attention. Over the tree they are each node with itself and with
    each of its ancestors; kernels also compute the hidden pairs of tiles that are partly seen.
    """

    triplets: float
    members: float  # sequences of all triplets
    answers: float  # of them with scored tokens
    nodes: float  # tokens of the prefix tree
    tree_pairs: float
    separate: float  # tokens of all members in passes of their own
    separate_pairs: float
    again: float  # tokens of the members that `one_by_one` runs twice
    again_pairs: float
    labels: float  # positions with scored logits
    attack: Tokens | None = None  # what the adversary's pass computes


def tokens_of(batch: TripletBatch) -> Tokens:
    lengths = [len(span.tokens) for span in batch.spans]
    again = [len(span.tokens) for span in batch.spans if span.member != "benign"]
    return Tokens(
        triplets=len(batch),
        members=len(batch.spans),
        answers=sum(bool(span.term) for span in batch.spans),
        nodes=len(batch.tokens),
        tree_pairs=int(batch.positions.sum()) + len(batch.positions),
        separate=sum(lengths),
        separate_pairs=_causal_pairs(lengths),
        again=sum(again),
        again_pairs=_causal_pairs(again),
        labels=sum(batch.label_counts.values()),
        attack=None if batch.attacked is None else tokens_of(batch.attacked.batch),
    )


def _causal_pairs(lengths: Sequence[int]) -> int:
    return sum(length * (length + 1) // 2 for length in lengths)


def mean_tokens(micro_batches: Iterable[Sequence[EncodedTriplet]], loss: LossSection) -> Tokens:
    """Packs at least one micro-batch and returns the mean."""
    return _mean([tokens_of(_packed(rows, loss)) for rows in micro_batches])


def _mean(counts: Sequence[Tokens]) -> Tokens:
    attacks = [each.attack for each in counts if each.attack is not None]
    *columns, _ = zip(*(vars(each).values() for each in counts), strict=True)
    means = Tokens(*(sum(column) / len(counts) for column in columns))
    return replace(means, attack=_mean(attacks) if attacks else None)


def first_epoch(
    section: TrainSection, triplets: Sequence[EncodedTriplet]
) -> list[list[EncodedTriplet]]:
    """Returns the first epoch's micro-batches in order, or an even share of many."""
    size = section.batch_size
    order = [triplets[index] for index in epoch_order(len(triplets), section.seed, 0)]
    starts = range(0, len(order), size)
    stride = max(1, len(starts) * size // MOST_PACKED)
    return [order[start : start + size] for start in starts[::stride]]


def mean_workload(tokens: Tokens) -> Workload:
    """Describes a micro-batch of equal members with about these tokens."""
    triplets = max(1, round(tokens.triplets))
    length = round(tokens.separate / tokens.members)
    branches = tokens.members - tokens.triplets
    shared = round((tokens.separate - tokens.nodes) / branches) if branches else 0
    response = round(tokens.labels / tokens.answers) if tokens.answers else 1
    return Workload(length, min(shared, length - 1), min(response, length - 1), triplets)
