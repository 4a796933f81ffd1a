"""What a contrastive loss is to the step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

from llmcausal.data.triplet import Member


class ContrastiveLoss(nn.Module, ABC):
    """A loss on the representations of a triplet's members.

    The constructor's keyword arguments name the `[loss]` settings it takes (tau, margin, ...);
    a loss of your own gets the rest from `[loss.options]`.
    """

    members: frozenset[Member]
    """Members it reads, given its weights; the others are not computed. Empty: always zero."""
    per_triplet: bool = False
    """Whether a triplet's loss depends on that triplet alone, so that a run short of memory may
    cut its optimizer steps into smaller micro-batches."""

    @abstractmethod
    def forward(self, representations: Mapping[Member, Tensor]) -> Tensor:
        """Returns one loss per triplet.

        Args:
            representations: Per member of `members`, [triplets, width].

        Returns:
            Losses [triplets]; the step averages them over the optimizer step.
        """
