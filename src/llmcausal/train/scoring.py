"""What the objective makes of a micro-batch's hidden states: its terms, their shares, figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from llmcausal.data.triplet import Member
from llmcausal.losses.cross_entropy import (
    OutputHead,
    chunked_cross_entropy,
    streamed_cross_entropy,
)
from llmcausal.losses.invariance import divergence
from llmcausal.losses.preference import preference
from llmcausal.model.trunk import Trunk
from llmcausal.train.batch import PAIRS, SAME, Term, TripletBatch, answers_of
from llmcausal.train.objective import Objective, causal_metrics

PAIR: tuple[Term, Term] = ("robust", "yielding")
"""The answers to the injection that the preference tells apart."""


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
        self.sums[name] = self.sums.get(name, 0) + value.detach()
        self.counts[name] = self.counts.get(name, 0) + count


class Scorer:
    """Scores hidden states.

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

    @property
    def head(self) -> OutputHead:
        return OutputHead(self.trunk.head, self.trunk.bias, self.trunk.softcap)

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
                term: chunked_cross_entropy(rows, self.head, targets[term], chunk=chunk)
                for term, rows in hidden.items()
            }
        if not hidden:
            return {}
        losses = streamed_cross_entropy(  # of all terms at once: the head comes across once
            torch.cat([*hidden.values()]),
            self.head,
            torch.cat([targets[term] for term in hidden]),
            vocabulary_chunk=trunk.vocabulary_chunk,
            label_chunk=chunk,
        )
        return dict(zip(hidden, losses.split([*map(len, hidden.values())]), strict=True))

    def task_shares(
        self,
        result: StepResult,
        losses: Mapping[Term, Tensor],
        weights: Mapping[Term, Tensor],
        totals: Mapping[str, int],
    ) -> list[Tensor]:
        """Returns the shares of the cross-entropies, given each label's and its weight.

        The figures are means over tokens, whatever the objective averages over.
        """
        shares = []
        for term, values in losses.items():
            result.add(f"{term}_loss", values.sum(), len(values))
            total = values.sum(), totals[term]
            if self.objective.by_answer:
                weighted = values * weights[term].to(values.dtype)
                total = weighted.sum(), totals[answers_of(term)]
            if weight := self.objective.lambdas.get(term):
                shares.append(weight * total[0] / total[1])
        return shares

    def preference_share(
        self,
        result: StepResult,
        batch: TripletBatch,
        answers: Mapping[Term, Tensor],
        totals: Mapping[str, int],
    ) -> list[Tensor]:
        """Returns the preference's share, if any of the batch's triplets has both answers.

        Args:
            result: Takes the figures.
            batch: The micro-batch.
            answers: Mean cross-entropy of the right and of the obeying answers to the injections.
            totals: As in `__call__`.
        """
        if not len(batch.pairs):
            return []
        right, obeying = answers["robust"][batch.pairs], answers["yielding"]
        lengths = batch.pair_lengths.to(right.dtype)
        beta = self.objective.beta * (lengths if self.objective.sums else torch.ones_like(lengths))
        losses = preference(right, obeying, batch.reference.to(right.dtype), beta)
        result.add("preference_loss", losses.sum(), len(losses))
        with torch.no_grad():
            result.add("preference_accuracy", (obeying > right).sum(), len(losses))
        return [self.objective.lambda_preference * losses.sum() / totals[PAIRS]]

    def invariance_share(
        self,
        result: StepResult,
        attacked: Tensor,
        clean: Tensor,
        weights: Tensor,
        answers: int,
        totals: Mapping[str, int],
    ) -> Tensor:
        """Returns the divergence's share.

        Args:
            result: Takes the figures.
            attacked: States that predict the answers under attack [n, width].
            clean: Those without it [n, width].
            weights: Of each token [n].
            answers: How many answers these are.
            totals: As in `__call__`.
        """
        values = divergence(
            attacked,
            clean.detach(),
            self.head,
            chunk=self.execution.label_chunk,
            vocabulary_chunk=self.trunk.vocabulary_chunk,
        )
        total = (values * weights.to(values.dtype)).sum()
        result.add("invariance_loss", total, answers)
        return self.objective.lambda_invariance * total / totals[SAME]

    def contrast_share(
        self, result: StepResult, pooled: Mapping[Member, Tensor], totals: Mapping[str, int]
    ) -> Tensor:
        """Returns the contrast's share, given each member's pooled states [triplets, width]."""
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


def mean_of_answers(batch: TripletBatch, term: Term, losses: Mapping[Term, Tensor]) -> Tensor:
    """Returns the mean cross-entropy of each answer that a term scores [answers]."""
    counts = batch.answer_lengths(term)
    return torch.stack([part.mean() for part in losses[term].split(counts)])
