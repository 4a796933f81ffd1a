"""What training minimizes, and the figures that tell how the representations stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from llmcausal.data.triplet import MEMBERS, Member
from llmcausal.losses.base import ContrastiveLoss
from llmcausal.model.projection import ProjectionHead
from llmcausal.train.batch import TERM_MEMBERS, Needs, Term


@dataclass(frozen=True)
class Objective:
    """The weighted sum that is minimized.

    Attributes:
        contrastive: Loss on representations, or None where its weight is 0.
        projection: Head that makes representations from pooled hidden states, or None.
        lambda_contrastive: Weight of `contrastive`.
        lambdas: Weight of each cross-entropy term.
        lambda_preference: Weight of the preference; `beta` is its sharpness, `sums` whether it
            takes the sum of an answer's log-ratios instead of their mean.
        lambda_invariance: Weight of the divergence of the answer's distributions.
        lambda_state: Weight of the distance of the middle layers' states at the answer.
        by_answer: Cross-entropies average over answers, with `answer_weights`; else over tokens.
        layer: Hidden state that is pooled (-1: the last).
    """

    contrastive: ContrastiveLoss | None
    projection: ProjectionHead | None
    lambda_contrastive: float
    lambdas: dict[Term, float]
    layer: int = -1
    lambda_preference: float = 0.0
    beta: float = 2.0
    sums: bool = False
    lambda_invariance: float = 0.0
    lambda_state: float = 0.0
    by_answer: bool = False

    @property
    def modules(self) -> list[nn.Module]:
        """Its parts that may hold parameters or buffers."""
        return [part for part in (self.projection, self.contrastive) if part is not None]

    @property
    def needs(self) -> Needs:
        """What must be computed; a term with weight 0 asks for nothing."""
        pooled = self.contrastive.members if self.contrastive and self.lambda_contrastive else ()
        terms = {term for term in TERM_MEMBERS if self.lambdas.get(term)}
        if self.lambda_preference:
            terms |= {"robust", "yielding"}
        if self.compares:
            terms |= {"task", "robust"}
        return Needs(frozenset(pooled), frozenset(terms), bool(self.lambda_state))

    @property
    def compares(self) -> bool:
        """Whether answers that an attack does not change are compared with and without it."""
        return bool(self.lambda_invariance or self.lambda_state)


def causal_metrics(representations: Mapping[Member, Tensor]) -> dict[str, Tensor]:
    """Computes the metrics that the members at hand allow, one value per triplet.

    `causal_stability` = cos(b, cf); `spurious_separation` = 1 - cos(b, i);
    `causal_discrimination` = cos(b, cf) - cos(b, i).
    """
    metrics: dict[str, Tensor] = {}
    if not {"benign"} <= representations.keys():
        return metrics
    cosines = {
        member: cosine_similarity(representations["benign"], representations[member], dim=-1)
        for member in MEMBERS[1:]
        if member in representations
    }
    if "benign_cf" in cosines:
        metrics["causal_stability"] = cosines["benign_cf"]
    if "injection" in cosines:
        metrics["spurious_separation"] = 1 - cosines["injection"]
    if len(cosines) == 2:
        metrics["causal_discrimination"] = cosines["benign_cf"] - cosines["injection"]
    return metrics
