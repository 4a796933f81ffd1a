"""What a contrastive loss is to the step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
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
        """Returns losses [triplets], given the representations [triplets, width] of `members`.

        The step averages them over the optimizer step.
        """


class ProjectionHead(nn.Module):
    """Two linear layers with GELU between them, as in SimCLR (Chen et al., 2020, section 2.1).

    The contrast is taken through it, so that it cannot wreck the text. `seed` decides the initial
    weights, whatever was drawn before.
    """

    def __init__(self, width: int, hidden: int, out: int, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.input = nn.Linear(width, hidden)
            self.output = nn.Linear(hidden, out)

    def forward(self, pooled: Tensor) -> Tensor:
        """Maps pooled hidden states [n, width] to representations [n, out]."""
        result: Tensor = self.output(nn.functional.gelu(self.input(pooled)))
        return result

    @torch.no_grad()
    def center(self, pooled: Tensor) -> None:
        """Sets the biases so that the mean of `pooled` [n, width] is mapped near the origin.

        Hidden states of all texts share one large direction. Left in, every cosine starts near 1,
        where the gradient of the contrast vanishes.
        """
        mean = pooled.to(self.input.weight.dtype).mean(0)
        self.input.bias.copy_(-(self.input.weight @ mean))
        self.output.bias.zero_()
