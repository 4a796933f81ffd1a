"""Runs one micro-batch through the model and the objective, as a tree or member by member."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from llmcausal.data.triplet import Member
from llmcausal.losses.comparisons import middle_layers
from llmcausal.model.tree_attention import TreeBlocks
from llmcausal.model.trunk import ALL_LAYERS_MASK, SLIDING_MASK, LayerRows, Trunk
from llmcausal.train.batch import (
    COMPARED,
    AttackedPart,
    Needs,
    PackedTree,
    Span,
    Term,
    TripletBatch,
)
from llmcausal.train.objective import (
    PAIR,
    AnswerStates,
    SameAnswers,
    Scorer,
    StepResult,
    mean_of_answers,
)
from llmcausal.train.rng import device_rng, restore_device_rng


@dataclass(frozen=True)
class _Hidden:
    pooled: dict[Member, Tensor]
    labelled: dict[Term, Tensor]
    targets: dict[Term, Tensor]
    middle: dict[Term, Tensor]


class TripletStep(Scorer):
    def __call__(
        self, batch: TripletBatch, totals: Mapping[str, int], backward: Backward | None = None
    ) -> StepResult:
        """Runs a micro-batch that is on the model's device.

        Args:
            totals: Counts of the whole optimizer step (`batch.label_totals`). They make gradients
                independent of the cut into micro-batches. Only InfoNCE depends on the cut: its
                negatives are the micro-batch's injections.
            backward: Called on one or several scalars; their gradients add up to the batch's.
                Without it the result's loss has the graph of all members.
        """
        if backward is None:
            return self._score(self._run(batch, self.objective.needs), batch, totals)
        if batch.attacked is None:
            return self._descend(batch, totals, backward)
        # One backward pass gives the weights' gradients and the adversary's direction.
        row = self.trunk.embeddings(batch.tokens[:1])
        shift = row.new_zeros(len(batch.tokens), row.shape[1]).requires_grad_()
        result = self._descend(replace(batch, shift=shift), totals, backward)
        attacked = self._worst(batch.attacked, shift)
        del shift
        adversary = TripletStep(self.trunk, self.objective.adversary, self.execution)
        found = adversary._descend(attacked, totals, backward)
        result.loss = result.loss + found.loss
        result.add("loss", found.loss, 0)
        result.add("adversarial_loss", found.sums["robust_loss"], found.counts["robust_loss"])
        return result

    def _descend(
        self, batch: TripletBatch, totals: Mapping[str, int], backward: Backward
    ) -> StepResult:
        if self.execution.members == "one_by_one":
            return OneByOne(self, batch, totals, backward).run()
        result = self._score(self._run(batch, self.objective.needs), batch, totals)
        backward(result.loss)
        result.loss = result.loss.detach()
        return result

    def _worst(self, attacked: AttackedPart, shift: Tensor) -> TripletBatch:
        """Shifts the injected tokens' embeddings to where the loss rises fastest.

        Each moves by the same share of its length: the fast gradient method (Goodfellow et al.,
        2015) on embeddings (Miyato et al., 2017).

        Args:
            shift: A shift of the whole batch's embeddings, with its gradient [nodes, width].
        """
        assert shift.grad is not None
        exact = torch.promote_types(shift.dtype, torch.float32)
        own = self.trunk.embeddings(attacked.batch.tokens[attacked.inserted]).to(exact)
        # A scaled fp16 gradient may overflow; the optimizer then skips the step.
        up = shift.grad[attacked.places].to(exact).nan_to_num(0.0, 0.0, 0.0)
        up *= own.norm(dim=-1, keepdim=True) / up.norm(dim=-1, keepdim=True).clamp_min(1e-20)
        worst = shift.new_zeros(len(attacked.batch.tokens), shift.shape[1])
        radius = self.objective.section.adversarial_radius
        worst[attacked.inserted] = (radius * up).to(worst.dtype)
        return replace(attacked.batch, shift=worst)

    def representations(self, batch: TripletBatch, needs: Needs) -> dict[Member, Tensor]:
        """Returns the hidden states [triplets, width] of `needs.pooled`, before the projection."""
        return self._run(batch, needs).pooled

    def answer_means(self, batch: TripletBatch, needs: Needs) -> dict[Term, Tensor]:
        """Returns each answer's mean cross-entropy [answers], by the terms of `needs`."""
        hidden = self._run(batch, needs)
        losses = self.label_losses(hidden.labelled, hidden.targets)
        return {term: mean_of_answers(batch, term, losses) for term in losses}

    def last_hidden(self, tree: PackedTree) -> Tensor:
        """Returns each node's last hidden state [nodes, width], of any tree."""
        attention = tree_attention(self.trunk, tree, self._dtype)
        return self._decode(tree.tokens, tree.positions, **attention)[0]

    @property
    def _dtype(self) -> torch.dtype:
        return self.execution.autocast or self.trunk.head.dtype

    def _run(self, batch: TripletBatch, needs: Needs) -> _Hidden:
        if self.execution.members == "tree":
            return self._tree(batch, needs)
        return self._separate(batch, needs)

    def _decode(
        self,
        tokens: Tensor,
        positions: Tensor | None,
        pools: bool = False,
        answers: Tensor | None = None,
        **attention: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Runs the decoder.

        Args:
            pools: Whether to return the pooled layer.
            answers: Rows of the middle layers to return [rows].
            **attention: Also `shift`, as `Trunk.hidden_states` takes them.

        Returns:
            The last hidden state [n, width], the pooled layer's in fp32 or wider [n, width], and
            the middle layers' [layers, rows, width].
        """
        autocast = self.execution.autocast
        wanted = [LayerRows(self.objective.section.layer)] if pools else []
        if answers is not None:
            wanted += [LayerRows(layer, answers) for layer in middle_layers(self.trunk.layers)]
        with torch.autocast(self.trunk.device.type, dtype=autocast, enabled=autocast is not None):
            last, found = self.trunk.hidden_states(tokens, positions, wanted, **attention)
        layer = found.pop(0) if pools else None
        if layer is not None:
            layer = layer.to(torch.promote_types(layer.dtype, torch.float32))
        return last, layer, torch.stack(found) if found else None

    def _tree(self, batch: TripletBatch, needs: Needs) -> _Hidden:
        attention = tree_attention(self.trunk, batch, self._dtype)
        answers = None
        if needs.middle and batch.same:
            spans = [span for term in COMPARED for span in batch.spans_of(term)]
            answers = torch.cat([_predicting(span) for span in spans if batch.compares(span)])
        pools = bool(needs.pooled)
        last, layer, middle = self._decode(
            batch.tokens, batch.positions, pools, answers, shift=batch.shift, **attention
        )
        pooled = {} if layer is None else _pooled(batch, layer, needs)
        labelled, targets = {}, {}
        for term in batch.label_counts:
            spans = batch.spans_of(term)
            if not spans:
                continue
            labelled[term] = last[torch.cat([*map(_predicting, spans)])]
            targets[term] = torch.cat([span.tokens[span.prompt_length :] for span in spans])
        # Both terms' answers have the same tokens, so each takes half of the rows.
        halves = () if middle is None else middle.chunk(2, dim=1)
        return _Hidden(pooled, labelled, targets, dict(zip(COMPARED, halves, strict=False)))

    def span(
        self, batch: TripletBatch, span: Span, needs: Needs
    ) -> tuple[Tensor | None, AnswerStates]:
        """Returns one member's pooled row [width], if needed, and its answer's states."""
        pools = span.member in needs.pooled
        first, end = span.prompt_length - 1, len(span.tokens) - 1
        answers = None
        if needs.middle and batch.compares(span):
            answers = torch.arange(first, end, device=span.tokens.device)
        shift = None if batch.shift is None else batch.shift[span.nodes]
        last, layer, middle = self._decode(span.tokens, None, pools, answers, shift=shift)
        pooled = None if layer is None else layer[span.pooled_from : span.prompt_length].mean(0)
        return pooled, AnswerStates(last[first:end], middle)

    def _separate(self, batch: TripletBatch, needs: Needs) -> _Hidden:
        pooled: dict[Member, list[Tensor]] = {}
        labelled: dict[Term, list[Tensor]] = {}
        targets: dict[Term, list[Tensor]] = {}
        middle: dict[Term, list[Tensor]] = {}
        for span in batch.spans:
            pooled_row, states = self.span(batch, span, needs)
            if pooled_row is not None:
                pooled.setdefault(span.member, []).append(pooled_row)
            if span.term:
                labelled.setdefault(span.term, []).append(states.last)
                targets.setdefault(span.term, []).append(span.tokens[span.prompt_length :])
                if states.middle is not None:
                    middle.setdefault(span.term, []).append(states.middle)
        return _Hidden(
            {member: torch.stack(rows) for member, rows in pooled.items()},
            {term: torch.cat(rows) for term, rows in labelled.items()},
            {term: torch.cat(rows) for term, rows in targets.items()},
            {term: torch.cat(rows, dim=1) for term, rows in middle.items()},
        )

    def _score(self, hidden: _Hidden, batch: TripletBatch, totals: Mapping[str, int]) -> StepResult:
        result = StepResult(torch.zeros((), device=self.trunk.device), totals=totals)
        losses = self.label_losses(hidden.labelled, hidden.targets)
        weights = {
            term: torch.cat([span.weights for span in batch.spans_of(term)]) for term in losses
        }
        shares = self.task_shares(result, losses, weights)
        if self.objective.section.lambda_preference:
            scored = [term for term in PAIR if term in losses]
            answers = {term: mean_of_answers(batch, term, losses) for term in scored}
            shares += self.preference_share(result, batch, answers)
        if self.objective.compares and batch.same:
            clean, attacked = (
                AnswerStates(hidden.labelled[term][rows], hidden.middle.get(term))
                for term, rows in zip(COMPARED, batch.same_rows, strict=True)
            )
            own = weights["robust"][batch.same_rows[1]]
            same = SameAnswers(attacked, clean, own, len(batch.same))
            shares += self.same_shares(result, same)
        if self.objective.contrastive is not None and hidden.pooled:
            shares.append(self.contrast_share(result, hidden.pooled))
        # Without inputs for any term, such as obeying answers, the gradients are 0.
        shares = shares or [0.0 * values.sum() for values in losses.values()]
        result.loss = torch.stack(shares).sum()
        result.add("loss", result.loss, 1)
        return result


def _pooled(batch: TripletBatch, layer: Tensor, needs: Needs) -> dict[Member, Tensor]:
    """Returns each member's mean [triplets, width] over its pooled nodes [nodes, width]."""
    weights: dict[Member, Tensor] = {}
    for span in batch.spans:
        if span.member in needs.pooled:
            rows = weights.setdefault(span.member, layer.new_zeros(len(batch), len(layer)))
            nodes = span.nodes[span.pooled_from : span.prompt_length]
            rows[span.triplet, nodes] = 1 / len(nodes)
    # A matrix product adds in a fixed order on every device; index_add does not on CUDA.
    return {member: rows @ layer for member, rows in weights.items()}


def _predicting(span: Span) -> Tensor:
    """Returns the nodes that predict the answer's tokens: each token's predecessor."""
    return span.nodes[span.prompt_length - 1 : -1]


def tree_attention(trunk: Trunk, tree: PackedTree, dtype: torch.dtype) -> dict[str, Any]:
    """Returns the arguments that make the decoder attend along the tree.

    They are blocks where the decoder's attention takes them, else a mask [1, 1, nodes, nodes] in
    the queries' dtype. Sliding layers see only ancestors less than a window away in depth. Models
    with several kinds of layer get a dict by kind, as their own forward builds it.
    """
    window = tree.depth if trunk.window is None else trunk.window
    slides = tree.depth > window
    if trunk.takes_blocks and not slides:
        # This placeholder keeps the decoder from building its own mask; nothing reads it.
        unread = torch.zeros((1, 1, 1, 1), dtype=dtype, device=tree.tokens.device)
        blocks = TreeBlocks(tree.blocks, tree.subtree_ends)
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


Backward = Callable[[Tensor], None]


@dataclass(frozen=True)
class _Values:
    """A member's values that are compared with other members'."""

    span: Span
    row: Tensor | None  # pooled state [width]
    mean: Tensor | None  # mean cross-entropy of the answer

    @property
    def leaves(self) -> list[Tensor]:
        return [value for value in (self.row, self.mean) if value is not None]


class OneByOne:
    """Computes a micro-batch with one member's graph at a time (GradCache, Gao et al., 2021).

    Contrast and preference compare several members. Each of these runs without a graph first and
    keeps only its values, except the last, which runs once, with its graph. Its backward pass
    gives the gradients by the other members' values. A second pass of each other member, with the
    same random numbers, goes backward from these gradients.
    """

    def __init__(
        self, step: TripletStep, batch: TripletBatch, totals: Mapping[str, int], backward: Backward
    ) -> None:
        self.step, self.objective = step, step.objective
        self.device = step.trunk.device
        self.batch, self.backward = batch, backward
        self.prefers = bool(self.objective.section.lambda_preference)
        self.clean: dict[int, AnswerStates] = {}
        self.result = StepResult(torch.zeros((), device=self.device), totals=totals)

    def run(self) -> StepResult:
        spans = self.batch.spans
        joined = [i for i, span in enumerate(spans) if self._is_joined(span)]
        last = joined[-1] if joined else -1
        before: list[tuple[_Values, list[Tensor]]] = []
        gradients: list[list[Tensor]] = []
        for index, span in enumerate(spans):
            if index not in joined:
                self._alone(span)
            elif index < last:
                drawn_from = device_rng(self.device)
                with torch.no_grad():
                    values = self._values(span, *self._run(span))
                for leaf in values.leaves:
                    leaf.requires_grad_()
                before.append((values, drawn_from))
            else:
                gradients = self._joined(span, [values for values, _ in before])
        # Dropout must repeat its masks: a second pass starts from its first pass's random state.
        state = device_rng(self.device)
        for (values, drawn_from), gradient in zip(before, gradients, strict=True):
            restore_device_rng(self.device, drawn_from)
            self._alone(values.span, gradient)
        restore_device_rng(self.device, state)
        self.result.loss = self.result.sums["loss"]
        self.result.counts["loss"] = 1
        return self.result

    def _is_joined(self, span: Span) -> bool:
        contrasted = self.objective.contrastive and span.member in self.objective.needs.pooled
        return bool(contrasted or (self.prefers and span.term in PAIR))

    def _run(self, span: Span) -> tuple[Tensor | None, AnswerStates]:
        row, states = self.step.span(self.batch, span, self.objective.needs)
        if self.objective.compares and span.term == "task" and self.batch.compares(span):
            self.clean[span.triplet] = states.detach()
        return row, states

    def _values(self, span: Span, row: Tensor | None, states: AnswerStates) -> _Values:
        mean = None
        if self.prefers and span.term in PAIR:
            mean = self._losses(span, states.last)[span.term].mean()
        return _Values(span, row, mean)

    def _joined(self, span: Span, before: list[_Values]) -> list[list[Tensor]]:
        """Goes backward from the joint shares; returns their gradients by the earlier values."""
        row, states = self._run(span)
        joint = self._together([*before, self._values(span, row, states)])
        leaves = [leaf for values in before for leaf in values.leaves]
        found: list[Tensor] = [torch.zeros_like(leaf) for leaf in leaves]
        # Not by `backward`, which may scale the loss: these gradients become part of a loss that
        # `backward` scales later.
        if leaves and joint.requires_grad:
            found = [*torch.autograd.grad(joint, leaves, retain_graph=True, materialize_grads=True)]
        share = torch.stack([joint, *self._own_shares(span, states)]).sum()
        self.result.add("loss", share, 1)
        self.backward(share)
        each = iter(found)
        return [[next(each) for _ in values.leaves] for values in before]

    def _together(self, values: list[_Values]) -> Tensor:
        rows: dict[Member, list[Tensor]] = {}
        means: dict[Term, list[Tensor]] = {}
        for value in values:
            if value.row is not None:
                rows.setdefault(value.span.member, []).append(value.row)
            if value.mean is not None and value.span.term is not None:
                means.setdefault(value.span.term, []).append(value.mean)
        shares = []
        if means:
            stacked = {term: torch.stack(each) for term, each in means.items()}
            shares += self.step.preference_share(self.result, self.batch, stacked)
        if rows:
            pooled = {member: torch.stack(each) for member, each in rows.items()}
            shares.append(self.step.contrast_share(self.result, pooled))
        shares = shares or [0.0 * leaf.sum() for value in values for leaf in value.leaves]
        return torch.stack(shares).sum()

    def _alone(self, span: Span, gradient: list[Tensor] | None = None) -> None:
        """Goes backward from a member's own shares, and from the gradient by its values."""
        row, states = self._run(span)
        shares = self._own_shares(span, states)
        for share in shares:
            self.result.add("loss", share, 1)
        if gradient is not None:
            leaves = self._values(span, row, states).leaves
            # The derivative of sum(value * g) by the weights is g times the value's derivative.
            shares += [(leaf * by).sum() for leaf, by in zip(leaves, gradient, strict=True)]
        if not shares:
            return
        share = torch.stack(shares).sum()
        if share.requires_grad:  # a row of the frozen embeddings (`loss.layer` 0) has no gradient
            self.backward(share)

    def _losses(self, span: Span, labelled: Tensor) -> dict[Term, Tensor]:
        if span.term is None:
            return {}
        targets = {span.term: span.tokens[span.prompt_length :]}
        return self.step.label_losses({span.term: labelled}, targets)

    def _own_shares(self, span: Span, states: AnswerStates) -> list[Tensor]:
        losses = self._losses(span, states.last)
        weights = dict.fromkeys(losses, span.weights)
        shares = self.step.task_shares(self.result, losses, weights)
        if self.objective.compares and span.term == "robust" and self.batch.compares(span):
            same = SameAnswers(states, self.clean[span.triplet], span.weights, 1)
            shares += self.step.same_shares(self.result, same)
        return shares
