"""A micro-batch of triplets as tensors, and an epoch's micro-batches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import InitVar, dataclass, replace
from itertools import accumulate, takewhile
from typing import Any, Literal, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from llmcausal.data.prefix_tree import (
    AttentionBlock,
    Indices,
    attention_blocks,
    common_length,
    pack,
)
from llmcausal.data.splits import epoch_order
from llmcausal.data.tokenization import EncodedTriplet
from llmcausal.data.triplet import BRANCHES, MEMBERS, Member

FIRST_TOKENS = 4
FIRST_WEIGHT = 4.0
"""The first tokens decide whether an answer does the task or obeys; the rest follows from them."""
R = TypeVar("R", bound="Span | PackedTree | AttackedPart")
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
"""The preference's count in a step's totals: triplets with both answers to the injection."""
SAME = "same"
"""Count for divergence and distance: answers that are the same with and without the attack."""
COMPARED: tuple[Term, Term] = ("task", "robust")
"""The terms of such an answer: without the attack, and under it."""


def answers_of(term: Term) -> str:
    """Names a term's number of answers in a step's totals."""
    return f"{term} answers"


def answer_weights(count: int) -> list[float]:
    """Returns the weights of an answer's tokens: sum 1, the first ones `FIRST_WEIGHT` times."""
    weights = [FIRST_WEIGHT if place < FIRST_TOKENS else 1.0 for place in range(count)]
    whole = sum(weights)
    return [weight / whole for weight in weights]


@dataclass(frozen=True)
class Needs:
    """The parts of a triplet that the objective reads; a step computes no others."""

    pooled: frozenset[Member]  # members whose representation is needed
    terms: frozenset[Term]  # terms whose answers are scored
    middle: bool = False  # whether the middle layers' states at answers are read
    attack: Needs | None = None  # what the adversary's pass reads, if there is an adversary


@dataclass(frozen=True)
class Span:
    """One member of one triplet inside the batch."""

    triplet: int  # row of the triplet in the batch
    member: Member
    tokens: Tensor  # token ids of the prompt and, if scored, the response [n]
    prompt_length: int
    pooled_from: int  # first prompt token that is pooled
    term: Term | None  # cross-entropy term of the response, if scored
    nodes: Tensor  # path through the tree [n]
    weights: Tensor  # `answer_weights` of the response [n - prompt_length]


def _moved(record: R, device: torch.device) -> R:
    values = vars(record).items()
    tensors: Any = {n: each.to(device) for n, each in values if isinstance(each, Tensor)}
    return replace(record, **tensors)


@dataclass(frozen=True)
class PackedTree:
    tokens: Tensor  # token of each tree node [nodes]
    positions: Tensor  # depth of each node [nodes]
    subtree_ends: Tensor  # one past the last descendant of each node [nodes]
    blocks: tuple[AttentionBlock, ...]  # how attention over the tree is cut
    depth: int  # tokens of the longest path

    def to(self, device: torch.device) -> Self:
        return _moved(self, device)


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
    ids: tuple[str, ...]  # triplets' ids
    spans: tuple[Span, ...]  # all members that a step computes
    label_counts: dict[Term, int]  # scored tokens of each term
    pairs: Tensor  # triplets with a yielding answer [pairs]
    pair_lengths: Tensor  # tokens of their right and yielding answers [2, pairs]
    reference: Tensor  # their `EncodedTriplet.reference`; NaN where unknown [pairs, 2]
    same: tuple[int, ...]  # triplets whose answer is the same with and without the attack
    same_rows: Tensor  # rows of their labels among those of `task`, and of `robust` [2, labels]
    attacked: AttackedPart | None = None
    shift: Tensor | None = None  # added to the nodes' embeddings [nodes, width]

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device) -> Self:
        spans = tuple(_moved(span, device) for span in self.spans)
        attacked = None if self.attacked is None else self.attacked.to(device)
        return replace(super().to(device), spans=spans, attacked=attacked)

    def answer_lengths(self, term: Term) -> list[int]:
        return [len(span.weights) for span in self.spans_of(term)]

    def spans_of(self, term: Term) -> list[Span]:
        return [span for span in self.spans if span.term == term]

    def compares(self, span: Span) -> bool:
        """Whether a span's answer is the same with and without the attack."""
        return span.term in COMPARED and span.triplet in self.same


@dataclass(frozen=True)
class AttackedPart:
    """The injections of a batch alone, for the adversary's pass."""

    batch: TripletBatch
    inserted: Tensor  # its nodes that injections add to the clean prompts [n]
    places: Tensor  # the same nodes in the whole batch [n]

    def to(self, device: torch.device) -> Self:
        return replace(_moved(self, device), batch=self.batch.to(device))


def collate(triplets: Sequence[EncodedTriplet], needs: Needs, pooling: Pooling) -> TripletBatch:
    """Packs triplets into one batch, without the parts that the objective does not read."""
    scored = {TERM_MEMBERS[term]: term for term in needs.terms}
    read = [
        (row, member, encoded.prompt, encoded.response if member in scored else ())
        for row, triplet in enumerate(triplets)
        for member in BRANCHES
        if (member in needs.pooled or member in scored)
        and (encoded := getattr(triplet, member)) is not None
    ]
    tree, paths = pack_tensors([prompt + answer for *_, prompt, answer in read])
    spans = tuple(
        Span(
            triplet=row,
            member=member,
            tokens=torch.tensor(prompt + answer),
            prompt_length=len(prompt),
            pooled_from=_pooled_from(triplets[row], member, pooling),
            term=scored.get(member),
            nodes=nodes,
            weights=torch.tensor(answer_weights(len(answer)), dtype=torch.float64),
        )
        for (row, member, prompt, answer), nodes in zip(read, paths, strict=True)
    )
    return TripletBatch(
        **vars(tree),
        ids=tuple(triplet.id for triplet in triplets),
        spans=spans,
        label_counts={
            term: sum(len(span.weights) for span in spans if span.term == term)
            for term in sorted(needs.terms)
        },
        **_read_together(triplets),
        attacked=None if needs.attack is None else _attacked(triplets, spans, needs.attack),
    )


def _attacked(
    triplets: Sequence[EncodedTriplet], spans: Sequence[Span], needs: Needs
) -> AttackedPart:
    batch = replace(collate(triplets, needs, "mean"), same=())
    whole = {(span.triplet, span.member): span.nodes for span in spans}
    inserted, places = [], []
    for span in batch.spans:
        if span.member == "injection":
            own = slice(*_inserted(triplets[span.triplet]))
            inserted.append(span.nodes[own])
            places.append(whole[span.triplet, span.member][own])
    return AttackedPart(batch, torch.cat(inserted), torch.cat(places))


def _inserted(triplet: EncodedTriplet) -> tuple[int, int]:
    """Returns where [start, end) an injected prompt differs from the clean one."""
    attacked, clean = triplet.injection.prompt, triplet.benign.prompt
    start = common_length(attacked, clean)
    return start, len(attacked) - common_length(attacked[start:][::-1], clean[start:][::-1])


def _read_together(triplets: Sequence[EncodedTriplet]) -> dict[str, Any]:
    """Returns a batch's fields for terms that read several answers of a triplet."""
    same = [
        row
        for row, triplet in enumerate(triplets)
        if triplet.benign.response == triplet.injection.response
    ]
    same_rows = []
    for member in (TERM_MEMBERS[term] for term in COMPARED):
        counts = [len(getattr(triplet, member).response) for triplet in triplets]
        ends = [*accumulate(counts)]
        same_rows.append([i for row in same for i in range(ends[row] - counts[row], ends[row])])
    paired = {row: each for row, each in enumerate(triplets) if each.yielding is not None}
    lengths = [
        [len(getattr(each, member).response) for each in paired.values()]
        for member in ("injection", "yielding")
    ]
    references = [each.reference or (math.nan, math.nan) for each in paired.values()]
    return {
        "pairs": torch.tensor([*paired], dtype=torch.long),
        "pair_lengths": torch.tensor(lengths, dtype=torch.float64),
        "reference": torch.tensor(references, dtype=torch.float64).reshape(-1, 2),
        "same": tuple(same),
        "same_rows": torch.tensor(same_rows, dtype=torch.long),
    }


def label_totals(batches: Iterable[TripletBatch]) -> dict[str, int]:
    """Counts an optimizer step's triplets, and each term's labels and answers."""
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
    return min(len([*shared]), length - 1)  # a prefix of the others keeps its last token


@dataclass
class EpochBatches:
    """Cuts each epoch's order, which `seed` decides, into optimizer steps of micro-batches."""

    triplets: Sequence[EncodedTriplet]
    batch_size: int  # triplets in a micro-batch; a fallback may lower it later
    accumulation_steps: InitVar[int]  # micro-batches in an optimizer step
    seed: int
    needs: Needs
    pooling: Pooling

    def __post_init__(self, accumulation_steps: int) -> None:
        self.step_size = self.batch_size * accumulation_steps
        self._order: tuple[int, list[int]] = (-1, [])

    @property
    def steps_per_epoch(self) -> int:
        """Number of optimizer steps; the last may be smaller."""
        return math.ceil(len(self.triplets) / self.step_size)

    def step_at(self, epoch: int, position: int) -> list[TripletBatch]:
        """Returns the micro-batches of the step that starts at triplet `position` of `epoch`."""
        if self._order[0] != epoch:
            self._order = (epoch, epoch_order(len(self.triplets), self.seed, epoch))
        chosen = self._order[1][position : position + self.step_size]
        triplets = [self.triplets[index] for index in chosen]
        return fixed_batches(triplets, self.batch_size, self.needs, self.pooling)

    def after(self, epoch: int, position: int) -> tuple[int, int]:
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
