"""Distance of the middle layers' states with the attack from those without it."""

from __future__ import annotations

import torch
from torch import Tensor

PLACES = (1 / 3, 1 / 2, 2 / 3)
"""The compared layers, as shares of the depth."""


def middle_layers(layers: int) -> tuple[int, ...]:
    """Returns the compared layers of a decoder, counted from 1: three at most."""
    return tuple(sorted({max(1, round(share * layers)) for share in PLACES}))


def state_distance(attacked: Tensor, clean: Tensor) -> Tensor:
    """Returns each token's `|attacked - clean|^2 / |clean|^2`, averaged over the layers.

    Args:
        attacked: States under attack [layers, n, width].
        clean: States without it [layers, n, width]; get no gradient.

    Returns:
        Distances [n] in fp32 (fp64 for fp64 inputs).
    """
    total = torch.promote_types(attacked.dtype, torch.float32)
    aim = clean.detach().to(total)
    each = (attacked.to(total) - aim).square().sum(-1) / aim.square().sum(-1)
    return each.mean(0)
