"""Preference for the right answer under attack over the obeying one."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus


def preference(right: Tensor, obeying: Tensor, reference: Tensor, beta: Tensor) -> Tensor:
    """Returns `-log sigmoid(beta_r * D(right) - beta_o * D(obeying))` of each pair.

    D is an answer's mean log-ratio per token to the model without the adapter (Rafailov et al.,
    2023, eq. 7, with means instead of sums: no length is preferred). If beta includes the answers'
    lengths, the ratios are sums, as in SecAlign.

    Args:
        right: Mean cross-entropy of the right answer [pairs], in nats a token.
        obeying: Mean cross-entropy of the obeying answer [pairs].
        reference: Both without the adapter [pairs, 2].
        beta: Sharpness for each answer [2, pairs].
    """
    gain = beta[0] * (reference[:, 0] - right) - beta[1] * (reference[:, 1] - obeying)
    return softplus(-gain)
