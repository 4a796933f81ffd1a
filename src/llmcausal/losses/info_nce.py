"""InfoNCE: the counterfactual against the micro-batch's injections."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from llmcausal.data.triplet import Member
from llmcausal.losses.base import ContrastiveLoss


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
