"""A micro-batch of triplets as tensors: a prefix tree, what to pool, which labels to score."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from llmcausal.data.attention_blocks import AttentionBlock, plan_blocks
from llmcausal.data.prefix_tree import Indices, pack
from llmcausal.data.tokenization import EncodedTriplet
from llmcausal.data.triplet import BRANCHES, MEMBERS, Member
from llmcausal.losses.answers import answer_weights

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
"""What the divergence averages over: answers that an attack does not change."""


def answers_of(term: Term) -> str:
    """Names the number of answers that a term scores, among the totals of a step."""
    return f"{term} answers"


@dataclass(frozen=True)
class Needs:
    """Which parts of a triplet the objective reads; the others are not computed.

    Attributes:
        pooled: Members whose representation is needed.
        terms: Cross-entropy terms with a weight.
    """

    pooled: frozenset[Member]
    terms: frozenset[Term]


@dataclass(frozen=True)
class Span:
    """One member of one triplet inside the batch.

    Attributes:
        triplet: Row of the triplet in the batch.
        member: Which member.
        tokens: Its token ids, prompt then (if it is scored) response [n].
        prompt_length: Tokens of the prompt.
        pooled_from: First prompt token that is pooled.
        term: The cross-entropy term of its response, if scored.
        nodes: Its path through the tree [n].
        weights: Of each token of its answer, as `answer_weights` [n - prompt_length].
    """

    triplet: int
    member: Member
    tokens: Tensor
    prompt_length: int
    pooled_from: int
    term: Term | None
    nodes: Tensor
    weights: Tensor

    def to(self, device: torch.device) -> Self:
        return replace(
            self,
            tokens=self.tokens.to(device),
            nodes=self.nodes.to(device),
            weights=self.weights.to(device),
        )


@dataclass(frozen=True)
class PackedTree:
    """Sequences packed as a prefix tree, as tensors.

    Attributes:
        tokens: Token of each tree node [nodes].
        positions: Depth of each node [nodes].
        subtree_ends: One past the last descendant of each node [nodes].
        blocks: How attention over the tree is cut.
        depth: Tokens of the longest path.
    """

    tokens: Tensor
    positions: Tensor
    subtree_ends: Tensor
    blocks: tuple[AttentionBlock, ...]
    depth: int

    def to(self, device: torch.device) -> Self:
        if device.type == "cpu":
            return self
        return replace(
            self,
            tokens=self.tokens.to(device),
            positions=self.positions.to(device),
            subtree_ends=self.subtree_ends.to(device),
        )


def pack_tensors(sequences: Sequence[Sequence[int]]) -> tuple[PackedTree, tuple[Tensor, ...]]:
    """Packs sequences; also returns each one's path, the node of each of its tokens."""
    tree = pack(sequences)
    packed = PackedTree(
        tokens=_tensor(tree.tokens),
        positions=_tensor(tree.depths),
        subtree_ends=_tensor(tree.subtree_ends),
        blocks=tuple(plan_blocks(tree.subtree_ends, tree.depths)),
        depth=int(max(tree.depths)) + 1,
    )
    return packed, tuple(map(_tensor, tree.paths))


@dataclass(frozen=True)
class TripletBatch(PackedTree):
    """A micro-batch.

    Attributes:
        ids: Ids of its triplets.
        spans: Every member that is computed.
        label_counts: Scored tokens of each term.
        pairs: Triplets that have a yielding answer [pairs].
        pair_lengths: Tokens of their answers to the injection, right and yielding [2, pairs].
        reference: Of these triplets, as `EncodedTriplet.reference`; NaN where unknown [pairs, 2].
        same: Triplets whose answer is the same with and without the attack.
        same_rows: Their labels' rows among those of `task`, and of `robust` [2, labels].
    """

    ids: tuple[str, ...]
    spans: tuple[Span, ...]
    label_counts: dict[Term, int]
    pairs: Tensor
    pair_lengths: Tensor
    reference: Tensor
    same: tuple[int, ...]
    same_rows: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device) -> Self:
        if device.type == "cpu":
            return self
        return replace(
            super().to(device),
            spans=tuple(span.to(device) for span in self.spans),
            pairs=self.pairs.to(device),
            pair_lengths=self.pair_lengths.to(device),
            reference=self.reference.to(device),
            same_rows=self.same_rows.to(device),
        )

    def answer_lengths(self, term: Term) -> list[int]:
        """Returns the tokens of each answer that a term scores."""
        return [len(span.tokens) - span.prompt_length for span in self.spans_of(term)]

    def spans_of(self, term: Term) -> list[Span]:
        """Returns the spans whose answers a term scores, in order."""
        return [span for span in self.spans if span.term == term]


_NO_REFERENCE = (float("nan"), float("nan"))


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
    """Returns what terms that read several answers of a triplet need to know of them."""
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
    references = [triplets[row].reference or _NO_REFERENCE for row in paired]
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
    shared = _shared_prefix([getattr(triplet, other).prompt for other in MEMBERS])
    return min(shared, length - 1)  # a prompt that is a prefix of the others keeps its last token


def _shared_prefix(prompts: Sequence[Sequence[int]]) -> int:
    length = 0
    for tokens in zip(*prompts, strict=False):
        if len(set(tokens)) > 1:
            break
        length += 1
    return length
