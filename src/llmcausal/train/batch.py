"""A micro-batch of triplets as tensors, and an epoch's triplets in micro-batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Literal, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from llmcausal.data.prefix_tree import AttentionBlock, Indices, attention_blocks, pack
from llmcausal.data.splits import epoch_order
from llmcausal.data.tokenization import EncodedTriplet
from llmcausal.data.triplet import BRANCHES, MEMBERS, Member

FIRST_TOKENS = 4
FIRST_WEIGHT = 4.0
"""The first tokens decide whether an answer does the task or obeys; the rest follows from them."""
R = TypeVar("R", bound="Span | PackedTree")
Pooling = Literal["mean", "last", "suffix"]
Term = Literal["task", "robust", "swap", "yielding"]
TERM_MEMBERS: dict[Term, Member] = {
    "task": "benign",
    "robust": "injection",
    "swap": "obeying",
    "yielding": "yielding",
}
"""The member whose answer each term scores; `yielding` is scored for the preference alone."""
PAIRS = "pairs"
"""What the preference averages over: triplets that have both answers to the injection."""
SAME = "same"
"""What divergence and distance average over: answers that an attack does not change."""
COMPARED: tuple[Term, Term] = ("task", "robust")
"""The terms whose answers these are: without the attack and under it."""


def answers_of(term: Term) -> str:
    """Names the number of answers that a term scores, among the totals of a step."""
    return f"{term} answers"


def answer_weights(count: int) -> list[float]:
    """Returns the weights of an answer's tokens: 1 in all, the first ones `FIRST_WEIGHT` times."""
    weights = [FIRST_WEIGHT if place < FIRST_TOKENS else 1.0 for place in range(count)]
    whole = sum(weights)
    return [weight / whole for weight in weights]


@dataclass(frozen=True)
class Needs:
    """Which parts of a triplet the objective reads; the others are not computed."""

    pooled: frozenset[Member]  # members whose representation is needed
    terms: frozenset[Term]  # terms whose answers are scored
    middle: bool = False  # whether the middle layers' states at answers are read


@dataclass(frozen=True)
class Span:
    """One member of one triplet inside the batch."""

    triplet: int  # row of the triplet in the batch
    member: Member
    tokens: Tensor  # its token ids, prompt then (if it is scored) response [n]
    prompt_length: int
    pooled_from: int  # first prompt token that is pooled
    term: Term | None  # the cross-entropy term of its response, if scored
    nodes: Tensor  # its path through the tree [n]
    weights: Tensor  # of each token of its answer, as `answer_weights` [n - prompt_length]


@dataclass(frozen=True)
class PackedTree:
    """Sequences packed as a prefix tree, as tensors."""

    tokens: Tensor  # token of each tree node [nodes]
    positions: Tensor  # depth of each node [nodes]
    subtree_ends: Tensor  # one past the last descendant of each node [nodes]
    blocks: tuple[AttentionBlock, ...]  # how attention over the tree is cut
    depth: int  # tokens of the longest path

    def to(self, device: torch.device) -> Self:
        if device.type == "cpu":
            return self
        return self.map_tensors(lambda tensor: tensor.to(device))

    def map_tensors(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Returns a copy with every tensor changed."""
        return _map_tensors(self, change)


def _map_tensors(record: R, change: Callable[[Tensor], Tensor]) -> R:
    values = vars(record).items()
    changed: Any = {n: change(each) for n, each in values if isinstance(each, Tensor)}
    return replace(record, **changed)


def pack_tensors(sequences: Sequence[Sequence[int]]) -> tuple[PackedTree, tuple[Tensor, ...]]:
    """Packs sequences; also returns each one's path, the node of each of its tokens."""
    tree = pack(sequences)
    packed = PackedTree(
        tokens=_tensor(tree.tokens),
        positions=_tensor(tree.depths),
        subtree_ends=_tensor(tree.subtree_ends),
        blocks=attention_blocks(tree.subtree_ends),
        depth=int(max(tree.depths)) + 1,
    )
    return packed, tuple(map(_tensor, tree.paths))


@dataclass(frozen=True)
class TripletBatch(PackedTree):
    """A micro-batch."""

    ids: tuple[str, ...]  # of its triplets
    spans: tuple[Span, ...]  # every member that is computed
    label_counts: dict[Term, int]  # scored tokens of each term
    pairs: Tensor  # triplets that have a yielding answer [pairs]
    pair_lengths: Tensor  # tokens of their answers to the injection, right and yielding [2, pairs]
    # Of these triplets, as `EncodedTriplet.reference`; NaN where unknown [pairs, 2].
    reference: Tensor
    same: tuple[int, ...]  # triplets whose answer is the same with and without the attack
    same_rows: Tensor  # their labels' rows among those of `task`, and of `robust` [2, labels]

    def __len__(self) -> int:
        return len(self.ids)

    def map_tensors(self, change: Callable[[Tensor], Tensor]) -> Self:
        spans = tuple(_map_tensors(span, change) for span in self.spans)
        return replace(super().map_tensors(change), spans=spans)

    def answer_lengths(self, term: Term) -> list[int]:
        """Returns the tokens of each answer that a term scores."""
        return [len(span.tokens) - span.prompt_length for span in self.spans_of(term)]

    def spans_of(self, term: Term) -> list[Span]:
        """Returns the spans whose answers a term scores, in order."""
        return [span for span in self.spans if span.term == term]

    def compares(self, span: Span) -> bool:
        """Whether a span's answer is one that an attack does not change."""
        return span.term in COMPARED and span.triplet in self.same


def collate(triplets: Sequence[EncodedTriplet], needs: Needs, pooling: Pooling) -> TripletBatch:
    """Packs triplets into one batch, leaving out what the objective does not read."""
    sequences: list[tuple[int, ...]] = []
    described: list[tuple[int, Member, int, int, Term | None]] = []
    label_counts: dict[Term, int] = dict.fromkeys(sorted(needs.terms), 0)
    for row, triplet in enumerate(triplets):
        scored = {TERM_MEMBERS[term]: term for term in needs.terms}
        for member in BRANCHES:
            encoded = getattr(triplet, member)
            if encoded is None or (member not in needs.pooled and member not in scored):
                continue
            term = scored.get(member)
            sequences.append(encoded.prompt + (encoded.response if term else ()))
            start = _pooled_from(triplet, member, pooling)
            described.append((row, member, len(encoded.prompt), start, term))
            if term:
                label_counts[term] += len(encoded.response)
    tree, paths = pack_tensors(sequences)
    spans = tuple(
        Span(
            row,
            member,
            torch.tensor(sequence),
            prompt,
            start,
            term,
            path,
            torch.tensor(answer_weights(len(sequence) - prompt), dtype=torch.float64),
        )
        for sequence, path, (row, member, prompt, start, term) in zip(
            sequences, paths, described, strict=True
        )
    )
    return TripletBatch(
        **vars(tree),
        ids=tuple(triplet.id for triplet in triplets),
        spans=spans,
        label_counts=label_counts,
        **_read_together(triplets),
    )


def _read_together(triplets: Sequence[EncodedTriplet]) -> dict[str, Any]:
    """Returns the fields of a batch for terms that read several answers of a triplet."""
    same: list[int] = []
    same_rows: tuple[list[int], list[int]] = ([], [])
    paired = [row for row, triplet in enumerate(triplets) if triplet.yielding is not None]
    lengths = [
        (len(triplet.injection.response), len(triplet.yielding.response))
        for triplet in triplets
        if triplet.yielding is not None
    ]
    task = robust = 0
    for row, triplet in enumerate(triplets):
        right, attacked = triplet.benign.response, triplet.injection.response
        if right == attacked:
            same.append(row)
            same_rows[0].extend(range(task, task + len(right)))
            same_rows[1].extend(range(robust, robust + len(right)))
        task, robust = task + len(right), robust + len(attacked)
    references = [triplets[row].reference or (math.nan, math.nan) for row in paired]
    return {
        "pairs": torch.tensor(paired, dtype=torch.long),
        "pair_lengths": torch.tensor(lengths, dtype=torch.float64).reshape(-1, 2).T,
        "reference": torch.tensor(references, dtype=torch.float64).reshape(-1, 2),
        "same": tuple(same),
        "same_rows": torch.tensor(same_rows, dtype=torch.long),
    }


def label_totals(batches: Iterable[TripletBatch]) -> dict[str, int]:
    """Counts what an optimizer step averages over: its triplets, and each term's labels."""
    totals: dict[str, int] = {"triplets": 0, PAIRS: 0, SAME: 0}
    for batch in batches:
        totals["triplets"] += len(batch)
        totals[PAIRS] += len(batch.spans_of("yielding"))
        totals[SAME] += len(batch.same)
        for term, count in batch.label_counts.items():
            totals[term] = totals.get(term, 0) + count
            answers = answers_of(term)
            totals[answers] = totals.get(answers, 0) + len(batch.spans_of(term))
    return totals


def _tensor(indices: Indices) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(indices))


def _pooled_from(triplet: EncodedTriplet, member: Member, pooling: Pooling) -> int:
    length = len(getattr(triplet, member).prompt)
    if pooling == "mean":
        return 0
    if pooling == "last":
        return length - 1
    prompts = [getattr(triplet, other).prompt for other in MEMBERS]
    shared = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*prompts, strict=False))
    return min(
        len(list(shared)), length - 1
    )  # a prompt that is a prefix of the others keeps its last token


class EpochBatches:
    """Cuts each epoch's order, which `seed` decides, into optimizer steps of micro-batches.

    Args:
        batch_size: Triplets in a micro-batch; may be lowered later (out of memory).
        accumulation_steps: Micro-batches in an optimizer step.
    """

    def __init__(
        self,
        triplets: Sequence[EncodedTriplet],
        *,
        batch_size: int,
        accumulation_steps: int,
        seed: int,
        needs: Needs,
        pooling: Pooling,
    ) -> None:
        self.triplets = triplets
        self.batch_size = batch_size
        self.step_size = batch_size * accumulation_steps
        self.seed = seed
        self.needs = needs
        self.pooling = pooling
        self._order: tuple[int, list[int]] = (-1, [])

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass; the last may be smaller."""
        return math.ceil(len(self.triplets) / self.step_size)

    def step_at(self, epoch: int, position: int) -> list[TripletBatch]:
        """Returns the micro-batches of the step that starts at triplet `position` of `epoch`."""
        if self._order[0] != epoch:
            self._order = (epoch, epoch_order(len(self.triplets), self.seed, epoch))
        chosen = self._order[1][position : position + self.step_size]
        triplets = [self.triplets[index] for index in chosen]
        return fixed_batches(triplets, self.batch_size, self.needs, self.pooling)

    def after(self, epoch: int, position: int) -> tuple[int, int]:
        """Returns the epoch and position of the step after this one."""
        position += self.step_size
        return (epoch, position) if position < len(self.triplets) else (epoch + 1, 0)


def fixed_batches(
    triplets: Sequence[EncodedTriplet], batch_size: int, needs: Needs, pooling: Pooling
) -> list[TripletBatch]:
    """Cuts examples into batches in their own order, for validation."""
    return [
        collate(triplets[start : start + batch_size], needs, pooling)
        for start in range(0, len(triplets), batch_size)
    ]
