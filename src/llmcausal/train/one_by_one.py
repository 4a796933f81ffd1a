"""A micro-batch with one member's graph at a time: the leanest way, and the same result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llmcausal.data.triplet import Member
from llmcausal.train.batch import Span, Term, TripletBatch
from llmcausal.train.rng import device_rng, restore_device_rng
from llmcausal.train.scoring import PAIR, AnswerStates, SameAnswers, StepResult

if TYPE_CHECKING:
    from llmcausal.train.step import TripletStep

Backward = Callable[[Tensor], None]


@dataclass(frozen=True)
class _Values:
    """What of a member is read together with other members.

    Attributes:
        span: The member.
        row: Its pooled state [width], or None.
        mean: The mean cross-entropy of its answer, or None.
    """

    span: Span
    row: Tensor | None
    mean: Tensor | None

    @property
    def leaves(self) -> list[Tensor]:
        return [value for value in (self.row, self.mean) if value is not None]


class OneByOne:
    """Computes a micro-batch in the order of GradCache (Gao et al., 2021).

    What several members decide together (contrast, preference) takes the last of them with its
    graph, and of those before it only the values. Its gradient by these is what each of them goes
    backward from in a second pass, which draws the same random numbers.

    Args:
        step: Runs the members.
        batch: The micro-batch.
        totals: As in `TripletStep`.
        backward: As in `TripletStep`.
    """

    def __init__(
        self, step: TripletStep, batch: TripletBatch, totals: Mapping[str, int], backward: Backward
    ) -> None:
        self.step, self.objective = step, step.objective
        self.device = step.trunk.device
        self.batch, self.totals, self.backward = batch, totals, backward
        self.clean: dict[int, AnswerStates] = {}
        self.result = StepResult(torch.zeros((), device=self.device))

    def run(self) -> StepResult:
        """Goes backward from every share; returns the figures."""
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
        return bool(contrasted or (self.objective.lambda_preference and span.term in PAIR))

    def _run(self, span: Span) -> tuple[Tensor | None, AnswerStates]:
        row, states = self.step.span(self.batch, span, self.objective.needs)
        if self.objective.compares and span.term == "task" and self.batch.compares(span):
            self.clean[span.triplet] = states.detach()
        return row, states

    def _values(self, span: Span, row: Tensor | None, states: AnswerStates) -> _Values:
        mean = None
        if self.objective.lambda_preference and span.term in PAIR:
            mean = self._losses(span, states.last)[span.term].mean()
        return _Values(span, row, mean)

    def _joined(self, span: Span, before: list[_Values]) -> list[list[Tensor]]:
        """Goes backward from what members decide together; returns its gradients by the others."""
        row, states = self._run(span)
        joint = self._together([*before, self._values(span, row, states)])
        leaves = [leaf for values in before for leaf in values.leaves]
        found: list[Tensor] = [torch.zeros_like(leaf) for leaf in leaves]
        if leaves and joint.requires_grad:  # here, and not afterwards, for `backward` may scale
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
            shares += self.step.preference_share(self.result, self.batch, stacked, self.totals)
        if rows:
            pooled = {member: torch.stack(each) for member, each in rows.items()}
            shares.append(self.step.contrast_share(self.result, pooled, self.totals))
        return torch.stack([torch.zeros((), device=self.device), *shares]).sum()

    def _alone(self, span: Span, gradient: list[Tensor] | None = None) -> None:
        """Goes backward from a member's own loss, and from the gradient by its shared values."""
        row, states = self._run(span)
        shares = self._own_shares(span, states)
        for share in shares:
            self.result.add("loss", share, 1)
        if gradient is not None:
            leaves = self._values(span, row, states).leaves
            shares += [(leaf * by).sum() for leaf, by in zip(leaves, gradient, strict=True)]
        if not shares:
            return
        share = torch.stack(shares).sum()
        if share.requires_grad:  # not that of a row of the frozen embeddings (`loss.layer` 0)
            self.backward(share)

    def _losses(self, span: Span, labelled: Tensor) -> dict[Term, Tensor]:
        if span.term is None:
            return {}
        targets = {span.term: span.tokens[span.prompt_length :]}
        return self.step.label_losses({span.term: labelled}, targets)

    def _own_shares(self, span: Span, states: AnswerStates) -> list[Tensor]:
        losses = self._losses(span, states.last)
        weights = dict.fromkeys(losses, span.weights)
        shares = self.step.task_shares(self.result, losses, weights, self.totals)
        if self.objective.compares and span.term == "robust" and self.batch.compares(span):
            same = SameAnswers(states, self.clean[span.triplet], span.weights, 1)
            shares += self.step.same_shares(self.result, same, self.totals)
        return shares
