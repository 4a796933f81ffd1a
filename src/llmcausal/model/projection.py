"""The head through which the contrast is taken, so that it cannot wreck the text."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ProjectionHead(nn.Module):
    """Two linear layers with GELU between them, as in SimCLR (Chen et al., 2020, section 2.1).

    Args:
        width: Width of the pooled hidden state.
        hidden: Width of the hidden layer.
        out: Width of the representation.
        seed: Decides the initial weights, whatever was drawn before.
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
