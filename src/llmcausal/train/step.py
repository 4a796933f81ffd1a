"""One micro-batch through the model and the objective, as a prefix tree or member by member."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from llmcausal.data.triplet import Member
from llmcausal.losses.cross_entropy import chunked_cross_entropy
from llmcausal.losses.streamed_cross_entropy import streamed_cross_entropy
from llmcausal.model.tree_attention import TreeBlocks
from llmcausal.model.trunk import ALL_LAYERS_MASK, SLIDING_MASK, Trunk
from llmcausal.train.batch import Needs, PackedTree, Span, Term, TripletBatch
from llmcausal.train.objective import Objective, causal_metrics
from llmcausal.train.rng import device_rng, restore_device_rng

Backward = Callable[[Tensor], None]


@dataclass(frozen=True)
class Execution:
    """How a step is computed: it costs time or memory, and changes no result but by rounding.

    Attributes:
        members: `tree` computes each shared token once; `separate` runs every member on its own
            and is the reference (with dropout, tree members share the masks of shared tokens);
            `one_by_one` is the same with one member's graph at a time.
        autocast: Dtype for autocast, or None.
        label_chunk: Label positions whose logits exist at one time.
    """

    members: Literal["tree", "separate", "one_by_one"] = "tree"
    autocast: torch.dtype | None = None
    label_chunk: int = 256


@dataclass
class StepResult:
    """What a micro-batch gave.

    Attributes:
        loss: Its share of the optimizer step's loss; the shares add up. Scalar; with graph unless
            the step went backward itself.
        sums: Sums of loss terms and metrics over its triplets or labels, detached.
        counts: What each sum is to be divided by.
    """

    loss: Tensor
    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, value: Tensor, count: int) -> None:
        """Adds to a sum."""
        self.sums[name] = self.sums.get(name, 0) + value.detach()
        self.counts[name] = self.counts.get(name, 0) + count


@dataclass(frozen=True)
class _Hidden:
    pooled: dict[Member, Tensor]
    labelled: dict[Term, Tensor]
    targets: dict[Term, Tensor]


class TripletStep:
    """Computes the objective of a micro-batch.

    Args:
        trunk: The model, taken apart.
        objective: What is minimized.
        execution: How; may be replaced between calls.
    """

    def __init__(
        self,
        trunk: Trunk,
        objective: Objective,
        execution: Execution = Execution(),
    ) -> None:
        self.trunk = trunk
        self.objective = objective
        self.execution = execution

    def __call__(
        self, batch: TripletBatch, totals: Mapping[str, int], backward: Backward | None = None
    ) -> StepResult:
        """Runs the batch.

        Args:
            batch: A micro-batch on the model's device.
            totals: Triplets and labels of the whole optimizer step (`batch.label_totals`), so that
                gradients are the same however the step is cut into micro-batches (but for
                InfoNCE, whose negatives are those of the micro-batch).
            backward: Called on one or several scalars whose gradients add up to those of the
                batch's share. Without it the result's loss has a graph, of all members at once.
        """
        if backward is not None and self.execution.members == "one_by_one":
            return self._one_by_one(batch, totals, backward)
        result = self._score(self._run(batch, self.objective.needs), batch, totals)
        if backward is not None:
            backward(result.loss)
            result.loss = result.loss.detach()
        return result

    def representations(self, batch: TripletBatch, needs: Needs) -> dict[Member, Tensor]:
        """Returns each pooled member's hidden state [triplets, width], before the projection.

        Args:
            batch: Collated with `needs`.
            needs: Names the members to pool, whatever the objective reads.
        """
        return self._run(batch, needs).pooled

    def last_hidden(self, tree: PackedTree) -> Tensor:
        """Returns the last hidden state of each node [nodes, width], whatever the tree is of."""
        attention = tree_attention(self.trunk, tree, self._dtype)
        return self._decode(tree.tokens, tree.positions, **attention)[0]

    def label_losses(
        self, hidden: Mapping[Term, Tensor], targets: Mapping[Term, Tensor]
    ) -> dict[Term, Tensor]:
        """Returns each label's cross-entropy [n], by term.

        Args:
            hidden: Last hidden states at the positions that predict a label [n, width].
            targets: The labels [n].
        """
        trunk, chunk = self.trunk, self.execution.label_chunk
        if trunk.vocabulary_chunk is None:
            return {
                term: chunked_cross_entropy(
                    rows,
                    trunk.head,
                    targets[term],
                    bias=trunk.bias,
                    chunk=chunk,
                    softcap=trunk.softcap,
                )
                for term, rows in hidden.items()
            }
        if not hidden:
            return {}
        losses = streamed_cross_entropy(  # of all terms at once: the head comes across once
            torch.cat([*hidden.values()]),
            trunk.head,
            torch.cat([targets[term] for term in hidden]),
            bias=trunk.bias,
            vocabulary_chunk=trunk.vocabulary_chunk,
            label_chunk=chunk,
            softcap=trunk.softcap,
        )
        return dict(zip(hidden, losses.split([*map(len, hidden.values())]), strict=True))

    @property
    def _dtype(self) -> torch.dtype:
        return self.execution.autocast or self.trunk.head.dtype

    def _run(self, batch: TripletBatch, needs: Needs) -> _Hidden:
        if self.execution.members == "tree":
            return self._tree(batch, needs)
        return self._separate(batch, needs)

    def _decode(
        self, tokens: Tensor, positions: Tensor | None, **attention: Any
    ) -> tuple[Tensor, Tensor]:
        """Returns the last hidden state, and the pooled layer's in fp32 or wider."""
        autocast = self.execution.autocast
        with torch.autocast(self.trunk.device.type, dtype=autocast, enabled=autocast is not None):
            last, layer = self.trunk.hidden_states(
                tokens, positions, self.objective.layer, **attention
            )
        return last, layer.to(torch.promote_types(layer.dtype, torch.float32))

    def _tree(self, batch: TripletBatch, needs: Needs) -> _Hidden:
        attention = tree_attention(self.trunk, batch, self._dtype)
        last, layer = self._decode(batch.tokens, batch.positions, **attention)
        weights: dict[Member, Tensor] = {}
        for span in batch.spans:
            if span.member in needs.pooled:
                rows = weights.setdefault(span.member, layer.new_zeros(len(batch), len(layer)))
                nodes = span.nodes[span.pooled_from : span.prompt_length]
                rows[span.triplet, nodes] = 1 / len(nodes)
        # A matrix product sums in a fixed order on every device; index_add does not on CUDA.
        pooled = {member: rows @ layer for member, rows in weights.items()}
        labelled, targets = {}, {}
        for term in batch.label_counts:
            spans = [span for span in batch.spans if span.term == term]
            nodes = torch.cat([span.nodes[span.prompt_length - 1 : -1] for span in spans])
            labelled[term] = last[nodes]
            targets[term] = torch.cat([span.tokens[span.prompt_length :] for span in spans])
        return _Hidden(pooled, labelled, targets)

    def _span(self, span: Span) -> tuple[Tensor, Tensor]:
        """Runs one member; returns its pooled row [width] and its label positions [n, width]."""
        last, layer = self._decode(span.tokens, None)
        pooled = layer[span.pooled_from : span.prompt_length].mean(0)
        return pooled, last[span.prompt_length - 1 : -1]

    def _separate(self, batch: TripletBatch, needs: Needs) -> _Hidden:
        pooled: dict[Member, list[Tensor]] = {}
        labelled: dict[Term, list[Tensor]] = {}
        targets: dict[Term, list[Tensor]] = {}
        for span in batch.spans:
            pooled_row, labelled_rows = self._span(span)
            if span.member in needs.pooled:
                pooled.setdefault(span.member, []).append(pooled_row)
            if span.term:
                labelled.setdefault(span.term, []).append(labelled_rows)
                targets.setdefault(span.term, []).append(span.tokens[span.prompt_length :])
        return _Hidden(
            {member: torch.stack(rows) for member, rows in pooled.items()},
            {term: torch.cat(rows) for term, rows in labelled.items()},
            {term: torch.cat(rows) for term, rows in targets.items()},
        )

    def _score(self, hidden: _Hidden, batch: TripletBatch, totals: Mapping[str, int]) -> StepResult:
        result = StepResult(torch.zeros((), device=self.trunk.device))
        shares = self._task_shares(result, hidden.labelled, hidden.targets, totals)
        if self.objective.contrastive is not None and hidden.pooled:
            shares.append(self._contrast_share(result, hidden.pooled, totals))
        result.loss = torch.stack(shares).sum()
        result.add("loss", result.loss, 1)
        return result

    def _one_by_one(
        self, batch: TripletBatch, totals: Mapping[str, int], backward: Backward
    ) -> StepResult:
        """Computes the same with one member's graph at a time, in the order of GradCache.

        The contrast takes the last member with its graph, and of those before it only the values.
        Its gradient by these is what each of them goes backward from in a second pass, which draws
        the same random numbers.
        """
        result = StepResult(torch.zeros((), device=self.trunk.device))
        pooled = self.objective.needs.pooled
        last = max((i for i, span in enumerate(batch.spans) if span.member in pooled), default=-1)
        rows: dict[Member, list[Tensor]] = {}
        again: list[tuple[Span, Tensor, list[Tensor]]] = []
        gradients: tuple[Tensor, ...] = ()
        for index, span in enumerate(batch.spans):
            if span.member not in pooled:
                self._backward_from(result, span, totals, backward)
            elif index < last:
                state = device_rng(self.trunk.device)
                with torch.no_grad():
                    row = self._span(span)[0]
                rows.setdefault(span.member, []).append(row.requires_grad_())
                again.append((span, row, state))
            else:
                leaves = [row for _, row, _ in again]
                gradients = self._backward_with_contrast(
                    result, span, rows, leaves, totals, backward
                )
        state = device_rng(self.trunk.device)
        for (span, _, drawn_from), gradient in zip(again, gradients, strict=True):
            restore_device_rng(self.trunk.device, drawn_from)
            self._backward_from(result, span, totals, backward, gradient)
        restore_device_rng(self.trunk.device, state)
        result.loss = result.sums["loss"]
        result.counts["loss"] = 1
        return result

    def _backward_with_contrast(
        self,
        result: StepResult,
        span: Span,
        rows: dict[Member, list[Tensor]],
        leaves: list[Tensor],
        totals: Mapping[str, int],
        backward: Backward,
    ) -> tuple[Tensor, ...]:
        """Goes backward from the contrast; returns its gradients by the other members' rows."""
        row, labelled = self._span(span)
        rows.setdefault(span.member, []).append(row)
        stacked = {member: torch.stack(values) for member, values in rows.items()}
        contrast = self._contrast_share(result, stacked, totals)
        gradients: tuple[Tensor, ...] = ()
        if leaves:  # taken here, and not from the leaves afterwards, for `backward` may scale
            gradients = torch.autograd.grad(
                contrast, leaves, retain_graph=True, materialize_grads=True
            )
        share = torch.stack([contrast, *self._span_shares(result, span, labelled, totals)]).sum()
        result.add("loss", share, 1)
        backward(share)
        return gradients

    def _backward_from(
        self,
        result: StepResult,
        span: Span,
        totals: Mapping[str, int],
        backward: Backward,
        gradient: Tensor | None = None,
    ) -> None:
        """Goes backward from a member's own loss, and from the contrast's gradient by its row."""
        row, labelled = self._span(span)
        shares = self._span_shares(result, span, labelled, totals)
        for share in shares:
            result.add("loss", share, 1)
        if gradient is not None:
            shares.append((row * gradient).sum())
        share = torch.stack(shares).sum()
        if share.requires_grad:  # not that of a row of the frozen embeddings (`loss.layer` 0)
            backward(share)

    def _span_shares(
        self, result: StepResult, span: Span, labelled: Tensor, totals: Mapping[str, int]
    ) -> list[Tensor]:
        if span.term is None:
            return []
        targets = {span.term: span.tokens[span.prompt_length :]}
        return self._task_shares(result, {span.term: labelled}, targets, totals)

    def _task_shares(
        self,
        result: StepResult,
        hidden: Mapping[Term, Tensor],
        targets: Mapping[Term, Tensor],
        totals: Mapping[str, int],
    ) -> list[Tensor]:
        shares = []
        for term, losses in self.label_losses(hidden, targets).items():
            result.add(f"{term}_loss", losses.sum(), len(losses))
            shares.append(self.objective.lambdas[term] * losses.sum() / totals[term])
        return shares

    def _contrast_share(
        self, result: StepResult, pooled: Mapping[Member, Tensor], totals: Mapping[str, int]
    ) -> Tensor:
        objective = self.objective
        assert objective.contrastive is not None
        representations = self.project(pooled)
        losses: Tensor = objective.contrastive(representations)
        count = len(next(iter(pooled.values())))
        result.add("contrastive_loss", losses.sum(), count)
        with torch.no_grad():
            for name, values in causal_metrics(representations).items():
                result.add(name, values.sum(), count)
        return objective.lambda_contrastive * losses.sum() / totals["triplets"]

    def project(self, pooled: Mapping[Member, Tensor]) -> dict[Member, Tensor]:
        """Turns pooled hidden states [triplets, width] into representations [triplets, out]."""
        projection = self.objective.projection
        if projection is None:
            return dict(pooled)
        dtype = next(projection.parameters()).dtype
        return {member: projection(rows.to(dtype)) for member, rows in pooled.items()}


def tree_attention(trunk: Trunk, tree: PackedTree, dtype: torch.dtype) -> dict[str, Any]:
    """Builds the arguments that make the decoder attend along the tree.

    That is blocks where its attention takes them, else a mask [1, 1, nodes, nodes]. Sliding
    layers see only ancestors less than a window away in depth; models with several kinds of layer
    get a dict by kind, as their own forward builds it.

    Args:
        trunk: Tells what the decoder takes.
        tree: The tree.
        dtype: Of the queries.
    """
    window = tree.depth if trunk.window is None else trunk.window
    slides = tree.depth > window
    if trunk.takes_blocks and not slides:
        # Given a mask already, the decoder builds none of its own; the blocks leave it unread.
        unread = torch.zeros((1, 1, 1, 1), dtype=dtype, device=tree.tokens.device)
        blocks = TreeBlocks(tree.blocks, tree.subtree_ends, dtype)
        return {"attention_mask": unread, "tree_blocks": blocks}
    ends = tree.subtree_ends
    index = torch.arange(len(ends), device=ends.device)
    ancestors = (index[None, :] <= index[:, None]) & (index[:, None] < ends[None, :])
    full = _as_mask(ancestors, trunk, dtype)
    if not slides:
        return {"attention_mask": full}
    near = tree.positions[:, None] - tree.positions[None, :] < window
    sliding = _as_mask(ancestors & near, trunk, dtype)
    if not trunk.mask_kinds:
        return {"attention_mask": sliding}
    masks = {ALL_LAYERS_MASK: full, SLIDING_MASK: sliding}
    return {"attention_mask": {kind: masks[kind] for kind in trunk.mask_kinds}}


def _as_mask(visible: Tensor, trunk: Trunk, dtype: torch.dtype) -> Tensor:
    if not trunk.additive_masks:
        return visible[None, None]
    hidden = torch.finfo(dtype).min
    return torch.zeros_like(visible, dtype=dtype).masked_fill_(~visible, hidden)[None, None]
