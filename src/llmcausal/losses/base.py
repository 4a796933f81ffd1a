"""The base class of contrastive losses, and the projection head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from llmcausal.data.triplet import Member


class ContrastiveLoss(nn.Module, ABC):
    """A loss on the representations of a triplet's members.

    The constructor's keyword arguments name the `[loss]` settings it takes (tau, margin, ...);
    your own loss gets the others from `[loss.options]`.
    """

    members: frozenset[Member]
    """Members it reads; a step does not compute the others. Empty if the loss is always zero."""
    per_triplet: bool = False
    """Whether a triplet's loss depends on that triplet alone. A run short of memory may then cut
    its optimizer steps into smaller micro-batches."""

    @abstractmethod
    def forward(self, representations: Mapping[Member, Tensor]) -> Tensor:
        """Returns losses [triplets], given the representations [triplets, width] of `members`."""


class ProjectionHead(nn.Module):
    """Two linear layers with GELU between them, as in SimCLR (Chen et al., 2020, section 2.1).

    It lets the contrast shape representations without wrecking the text. `seed` alone decides the
    initial weights.
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
        """Sets the biases so that the mean of `pooled` [n, width] maps near the origin.

        All texts' hidden states share one large direction. It would start every cosine near 1,
        where the contrast's gradient vanishes.
        """
        mean = pooled.to(self.input.weight.dtype).mean(0)
        self.input.bias.copy_(-(self.input.weight @ mean))
        self.output.bias.zero_()
