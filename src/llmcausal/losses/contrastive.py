"""The contrastive losses: on cosines, on a softmax over the micro-batch, and with a margin."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy, normalize, relu

from llmcausal.data.triplet import Member
from llmcausal.losses.base import ContrastiveLoss


class CausalContrastive(ContrastiveLoss):
    """`lambda_causal * -cos(b, cf) / tau + lambda_spurious * cos(b, i) / tau`.

    Targets hinge the terms: pulling stops at `cos(b, cf) >= stability_target`, pushing at
    `1 - cos(b, i) >= separation_target`. Formula: docs/objective.md.
    """

    per_triplet = True

    def __init__(
        self,
        lambda_causal: float = 0.5,
        lambda_spurious: float = 0.5,
        tau: float = 0.07,
        stability_target: float | None = None,
        separation_target: float | None = None,
    ) -> None:
        super().__init__()
        self.lambda_causal = lambda_causal
        self.lambda_spurious = lambda_spurious
        self.tau = tau
        self.stability_target = stability_target
        self.separation_target = separation_target
        needed: set[Member] = set()
        if lambda_causal:
            needed |= {"benign", "benign_cf"}
        if lambda_spurious:
            needed |= {"benign", "injection"}
        self.members = frozenset(needed)

    def forward(self, representations: Mapping[Member, Tensor]) -> Tensor:
        benign = representations["benign"]
        loss = benign.new_zeros(len(benign))
        if self.lambda_causal:
            similarity = cosine_similarity(benign, representations["benign_cf"], dim=-1)
            if self.stability_target is not None:
                similarity = torch.clamp(similarity, max=self.stability_target)
            loss = loss - self.lambda_causal * similarity / self.tau
        if self.lambda_spurious:
            similarity = cosine_similarity(benign, representations["injection"], dim=-1)
            if self.separation_target is not None:
                similarity = torch.clamp(similarity, min=1 - self.separation_target)
            loss = loss + self.lambda_spurious * similarity / self.tau
        return loss


class InfoNCE(ContrastiveLoss):
    """Cross-entropy of the positive among its negatives (van den Oord et al., 2018, eq. 4).

    Anchor: benign. Positive: its counterfactual. Negatives: all of the micro-batch's injections,
    so the loss depends on `train.batch_size`.
    """

    members: frozenset[Member] = frozenset({"benign", "benign_cf", "injection"})

    def __init__(self, tau: float = 0.07) -> None:
        super().__init__()
        self.tau = tau

    def forward(self, representations: Mapping[Member, Tensor]) -> Tensor:
        anchor, positive, negatives = (
            normalize(representations[member], dim=-1)
            for member in ("benign", "benign_cf", "injection")
        )
        attraction = (anchor * positive).sum(-1, keepdim=True)
        similarities = torch.cat([attraction, anchor @ negatives.T], dim=-1) / self.tau
        target = torch.zeros(len(anchor), dtype=torch.long, device=anchor.device)
        return cross_entropy(similarities, target, reduction="none")


class TripletMargin(ContrastiveLoss):
    """`max(0, cos(b, i) - cos(b, cf) + margin)` (Schroff et al., 2015, eq. 3, with cosine)."""

    members: frozenset[Member] = frozenset({"benign", "benign_cf", "injection"})
    per_triplet = True

    def __init__(self, margin: float = 0.5) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, representations: Mapping[Member, Tensor]) -> Tensor:
        benign = representations["benign"]
        near = cosine_similarity(benign, representations["benign_cf"], dim=-1)
        far = cosine_similarity(benign, representations["injection"], dim=-1)
        return relu(far - near + self.margin)
