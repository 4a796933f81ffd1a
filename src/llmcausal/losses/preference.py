"""Preference for the right answer under attack over the answer that obeys it."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus


def preference(right: Tensor, obeying: Tensor, reference: Tensor, beta: Tensor) -> Tensor:
    """Returns `-log sigmoid(beta_r * D(right) - beta_o * D(obeying))` of each pair.

    D is the mean log-ratio of an answer's tokens to the model without the adapter (Rafailov et al.,
    2023, eq. 7, with means in place of sums, so that no length is preferred). With beta times the
    answers' lengths the ratios are sums, as SecAlign takes them.

    Args:
        right: Mean cross-entropy of the right answer [pairs], in nats a token.
        obeying: That of the answer that obeys the attack [pairs].
        reference: Both without the adapter [pairs, 2].
        beta: Sharpness, of either answer [2, pairs].
    """
    gain = beta[0] * (reference[:, 0] - right) - beta[1] * (reference[:, 1] - obeying)
    return softplus(-gain)
