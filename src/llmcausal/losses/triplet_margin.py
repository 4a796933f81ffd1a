"""Triplet margin loss in cosine distance."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn.functional import cosine_similarity, relu

from llmcausal.data.triplet import Member
from llmcausal.losses.base import ContrastiveLoss


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
