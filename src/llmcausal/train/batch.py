"""A micro-batch of triplets as tensors: a prefix tree, what to pool, which labels to score."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

from llmcausal.data.attention_blocks import AttentionBlock, plan_blocks
from llmcausal.data.prefix_tree import Indices, pack
from llmcausal.data.tokenization import EncodedTriplet
from llmcausal.data.triplet import MEMBERS, Member

Pooling = Literal["mean", "last", "suffix"]
Term = Literal["task", "robust"]
TERM_MEMBERS: dict[Term, Member] = {"task": "benign", "robust": "injection"}


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
    """

    triplet: int
    member: Member
    tokens: Tensor
    prompt_length: int
    pooled_from: int
    term: Term | None
    nodes: Tensor


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
        """Returns the tree with its tensors on `device`."""
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
    """

    ids: tuple[str, ...]
    spans: tuple[Span, ...]
    label_counts: dict[Term, int]

    def __len__(self) -> int:
        """Number of triplets."""
        return len(self.ids)

    def to(self, device: torch.device) -> Self:
        """Returns the batch with its tensors on `device`."""
        if device.type == "cpu":
            return self
        spans = tuple(
            replace(span, tokens=span.tokens.to(device), nodes=span.nodes.to(device))
            for span in self.spans
        )
        return replace(super().to(device), spans=spans)


def collate(triplets: Sequence[EncodedTriplet], needs: Needs, pooling: Pooling) -> TripletBatch:
    """Packs triplets into one batch, leaving out what the objective does not read."""
    sequences: list[tuple[int, ...]] = []
    described: list[tuple[int, Member, int, int, Term | None]] = []
    label_counts: dict[Term, int] = dict.fromkeys(sorted(needs.terms), 0)
    for row, triplet in enumerate(triplets):
        scored = {TERM_MEMBERS[term]: term for term in needs.terms}
        for member in MEMBERS:
            if member not in needs.pooled and member not in scored:
                continue
            encoded = getattr(triplet, member)
            term = scored.get(member)
            sequences.append(encoded.prompt + (encoded.response if term else ()))
            start = _pooled_from(triplet, member, pooling)
            described.append((row, member, len(encoded.prompt), start, term))
            if term:
                label_counts[term] += len(encoded.response)
    tree, paths = pack_tensors(sequences)
    spans = tuple(
        Span(row, member, torch.tensor(sequence), prompt, start, term, path)
        for sequence, path, (row, member, prompt, start, term) in zip(
            sequences, paths, described, strict=True
        )
    )
    return TripletBatch(
        **vars(tree),
        ids=tuple(triplet.id for triplet in triplets),
        spans=spans,
        label_counts=label_counts,
    )


def label_totals(batches: Iterable[TripletBatch]) -> dict[str, int]:
    """Counts what an optimizer step averages over: its triplets, and each term's labels."""
    totals: dict[str, int] = {"triplets": 0}
    for batch in batches:
        totals["triplets"] += len(batch)
        for term, count in batch.label_counts.items():
            totals[term] = totals.get(term, 0) + count
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
