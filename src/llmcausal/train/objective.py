"""The objective: its terms, their shares of a step's loss, and its figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from llmcausal.config import LossSection
from llmcausal.data.triplet import MEMBERS, Member
from llmcausal.losses.base import ContrastiveLoss, ProjectionHead
from llmcausal.losses.comparisons import divergence, preference, state_distance
from llmcausal.losses.cross_entropy import OutputHead, chunked_cross_entropy, streamed_cross_entropy
from llmcausal.train.batch import PAIRS, SAME, Needs, Term, TripletBatch, answers_of

if TYPE_CHECKING:
    from llmcausal.model.trunk import Trunk


@dataclass(frozen=True)
class Objective:
    """The weighted sum that training minimizes; `section` has the weights."""

    section: LossSection
    contrastive: ContrastiveLoss | None = None  # None where its weight is 0
    projection: ProjectionHead | None = None  # None: pooled states are the representations

    @property
    def modules(self) -> list[nn.Module]:
        return [part for part in (self.projection, self.contrastive) if part is not None]

    @property
    def lambdas(self) -> dict[Term, float]:
        section = self.section
        return {
            "task": section.lambda_task,
            "robust": section.lambda_robust,
            "swap": section.lambda_swap,
        }

    @property
    def needs(self) -> Needs:
        """What a step must compute; a term with weight 0 needs nothing."""
        section = self.section
        pooled = self.contrastive.members if self.contrastive and section.lambda_contrastive else ()
        terms = {term for term, weight in self.lambdas.items() if weight}
        if section.lambda_preference:
            terms |= {"robust", "yielding"}
        if self.compares:
            terms |= {"task", "robust"}
        attack = self.adversary.needs if section.lambda_adversarial else None
        return Needs(frozenset(pooled), frozenset(terms), bool(section.lambda_state), attack)

    @property
    def adversary(self) -> Objective:
        """The terms that only read injections, with their weights against the adversary."""
        weights = {name: 0.0 for name in LossSection.model_fields if name.startswith("lambda_")}
        for name in ("lambda_robust", "lambda_preference"):
            weights[name] = self.section.lambda_adversarial * getattr(self.section, name)
        return Objective(self.section.model_copy(update=weights))

    @property
    def compares(self) -> bool:
        """Whether a term compares answers with and without the attack."""
        return bool(self.section.lambda_invariance or self.section.lambda_state)


def causal_metrics(representations: Mapping[Member, Tensor]) -> dict[str, Tensor]:
    """Computes the metrics of the given members [triplets, width], one value per triplet.

    `causal_stability` = cos(b, cf); `spurious_separation` = 1 - cos(b, i);
    `causal_discrimination` = cos(b, cf) - cos(b, i).
    """
    if "benign" not in representations:
        return {}
    cosines = {
        member: cosine_similarity(representations["benign"], representations[member], dim=-1)
        for member in MEMBERS[1:]
        if member in representations
    }
    metrics: dict[str, Tensor] = {}
    if "benign_cf" in cosines:
        metrics["causal_stability"] = cosines["benign_cf"]
    if "injection" in cosines:
        metrics["spurious_separation"] = 1 - cosines["injection"]
    if len(cosines) == 2:
        metrics["causal_discrimination"] = cosines["benign_cf"] - cosines["injection"]
    return metrics


PAIR: tuple[Term, Term] = ("robust", "yielding")
"""The two answers to the injection that the preference compares."""


@dataclass(frozen=True)
class Execution:
    """How a step is computed: it changes time and memory, and results by rounding alone."""

    # `tree` computes each shared token once. `separate` runs each member alone and is the
    # reference; with dropout it differs from a tree, where members share masks. `one_by_one` is
    # `separate` with one member's graph at a time.
    members: Literal["tree", "separate", "one_by_one"] = "tree"
    autocast: torch.dtype | None = None
    label_chunk: int = 256  # label positions whose logits exist at one time


@dataclass(frozen=True)
class AnswerStates:
    """States that predict the answers' tokens."""

    last: Tensor  # last layer [n, width]
    middle: Tensor | None = None  # middle layers [layers, n, width], if a term reads them

    def detach(self) -> AnswerStates:
        middle = None if self.middle is None else self.middle.detach()
        return AnswerStates(self.last.detach(), middle)


@dataclass(frozen=True)
class SameAnswers:
    """Answers that are the same with and without the attack, token by token."""

    attacked: AnswerStates
    clean: AnswerStates  # without the attack; gets no gradient
    weights: Tensor  # tokens' weights [n]
    count: int  # number of answers


@dataclass
class StepResult:
    loss: Tensor  # its share of the optimizer step's loss; has a graph unless `backward` ran
    # Sums of loss terms and metrics over triplets or labels, detached.
    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)  # divisors of the sums
    # The whole optimizer step's counts (`batch.label_totals`): divisors of the shares.
    totals: Mapping[str, int] = field(default_factory=dict)

    def add(self, name: str, value: Tensor, count: int) -> None:
        self.sums[name] = self.sums.get(name, 0) + value.detach()
        self.counts[name] = self.counts.get(name, 0) + count


@dataclass(eq=False)
class Scorer:
    """Scores hidden states; trunk and execution may change between calls."""

    trunk: Trunk
    objective: Objective
    execution: Execution = Execution()

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
        losses = streamed_cross_entropy(  # all terms at once: the head crosses the bus once
            torch.cat([*hidden.values()]),
            self.head,
            torch.cat([targets[term] for term in hidden]),
            vocabulary_chunk=trunk.vocabulary_chunk,
            label_chunk=chunk,
        )
        return dict(zip(hidden, losses.split([*map(len, hidden.values())]), strict=True))

    def task_shares(
        self, result: StepResult, losses: Mapping[Term, Tensor], weights: Mapping[Term, Tensor]
    ) -> list[Tensor]:
        """Returns the cross-entropies' shares, given each label's loss and weight.

        The figures are means over tokens even if the objective averages over answers.
        """
        shares = []
        for term, values in losses.items():
            result.add(f"{term}_loss", values.sum(), len(values))
            total, count = values.sum(), result.totals[term]
            if self.objective.section.average == "answers":
                total = (values * weights[term].to(values.dtype)).sum()
                count = result.totals[answers_of(term)]
            if weight := self.objective.lambdas.get(term):
                shares.append(weight * total / count)
        return shares

    def preference_share(
        self, result: StepResult, batch: TripletBatch, answers: Mapping[Term, Tensor]
    ) -> list[Tensor]:
        """Returns the preference's share; nothing if no triplet has both answers.

        Args:
            answers: Mean cross-entropy of right and of obeying answers to the injections.
        """
        if not len(batch.pairs):
            return []
        section = self.objective.section
        right, obeying = answers["robust"][batch.pairs], answers["yielding"]
        lengths = batch.pair_lengths.to(right.dtype)
        if section.preference_ratio == "mean":
            lengths = torch.ones_like(lengths)
        beta = section.preference_beta * lengths
        losses = preference(right, obeying, batch.reference.to(right.dtype), beta)
        result.add("preference_loss", losses.sum(), len(losses))
        with torch.no_grad():
            result.add("preference_accuracy", (obeying > right).sum(), len(losses))
        return [section.lambda_preference * losses.sum() / result.totals[PAIRS]]

    def same_shares(self, result: StepResult, same: SameAnswers) -> list[Tensor]:
        """Returns the weighted shares of the divergence and of the states' distance."""
        found: list[tuple[str, float, Tensor]] = []
        if weight := self.objective.section.lambda_invariance:
            values = divergence(
                same.attacked.last,
                same.clean.last.detach(),
                self.head,
                chunk=self.execution.label_chunk,
                vocabulary_chunk=self.trunk.vocabulary_chunk,
            )
            found.append(("invariance_loss", weight, values))
        if same.attacked.middle is not None and same.clean.middle is not None:
            values = state_distance(same.attacked.middle, same.clean.middle)
            found.append(("state_loss", self.objective.section.lambda_state, values))
        shares = []
        for name, weight, values in found:
            total = (values * same.weights.to(values.dtype)).sum()
            result.add(name, total, same.count)
            shares.append(weight * total / result.totals[SAME])
        return shares

    def contrast_share(self, result: StepResult, pooled: Mapping[Member, Tensor]) -> Tensor:
        """Returns the contrast's share, given the members' pooled states [triplets, width]."""
        objective = self.objective
        assert objective.contrastive is not None
        representations = self.project(pooled)
        losses: Tensor = objective.contrastive(representations)
        count = len(next(iter(pooled.values())))
        result.add("contrastive_loss", losses.sum(), count)
        with torch.no_grad():
            for name, values in causal_metrics(representations).items():
                result.add(name, values.sum(), count)
        return objective.section.lambda_contrastive * losses.sum() / result.totals["triplets"]

    def project(self, pooled: Mapping[Member, Tensor]) -> dict[Member, Tensor]:
        """Turns pooled hidden states [triplets, width] into representations [triplets, out]."""
        projection = self.objective.projection
        if projection is None:
            return dict(pooled)
        dtype = next(projection.parameters()).dtype
        return {member: projection(rows.to(dtype)) for member, rows in pooled.items()}


def mean_of_answers(batch: TripletBatch, term: Term, losses: Mapping[Term, Tensor]) -> Tensor:
    """Returns the mean cross-entropy of each answer [answers] to a term."""
    counts = batch.answer_lengths(term)
    return torch.stack([part.mean() for part in losses[term].split(counts)])
