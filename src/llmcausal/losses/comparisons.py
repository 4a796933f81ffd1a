"""Terms that compare an answer or its states under attack with another: one function each."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from llmcausal.losses.cross_entropy import (
    OutputHead,
    capped_logits,
    head_parts,
    product,
    slope_of,
    sum_dtype,
    wants_gradient,
    with_gradient,
)

PLACES = (1 / 3, 1 / 2, 2 / 3)
"""The compared layers, as shares of the depth."""


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


def divergence(
    hidden: Tensor,
    clean: Tensor,
    head: OutputHead,
    *,
    chunk: int = 256,
    vocabulary_chunk: int | None = None,
) -> Tensor:
    """Returns `KL(softmax(W clean) || softmax(W hidden))` of each row, in chunks of logits.

    Differentiable by `hidden` alone: row i's gradient is `(p_hidden - p_clean) W`, times the
    softcap's slope.

    Args:
        hidden: States that predict the answer under attack [n, width].
        clean: States without the attack [n, width].
        head: On the host if `vocabulary_chunk`, else with the states.
        chunk: Rows whose logits exist at one time.
        vocabulary_chunk: The head's rows on the device at one time; None for all.

    Returns:
        Divergences [n], in nats, in fp32 (fp64 for fp64 inputs).
    """
    total = sum_dtype(hidden)
    gradient = torch.zeros_like(hidden, dtype=total) if wants_gradient(hidden) else None
    values = torch.zeros(len(hidden), dtype=total, device=hidden.device)
    norms = [torch.full_like(values, -torch.inf) for _ in range(2)]
    words, softcap = vocabulary_chunk or len(head.weight), head.softcap
    chunks = [slice(start, start + chunk) for start in range(0, len(hidden), chunk)]
    with torch.no_grad():
        # A first pass, because each probability needs its row's norm over the whole vocabulary.
        for _, part in head_parts(head, words, hidden):
            for rows in chunks:
                for norm, states in zip(norms, (hidden, clean), strict=True):
                    z = capped_logits(states[rows], part)
                    norm[rows] = torch.logaddexp(norm[rows], torch.logsumexp(z, -1))
        for _, part in head_parts(head, words, hidden):
            for rows in chunks:
                right = capped_logits(clean[rows], part)
                right -= norms[1][rows, None]
                attacked = capped_logits(hidden[rows], part)
                slope = None if softcap is None else slope_of(attacked, softcap)
                attacked -= norms[0][rows, None]
                # In place, and freed at once: each of these is a chunk of logits.
                p = right.exp()
                values[rows] += right.sub_(attacked).mul_(p).sum(-1)
                del right
                if gradient is not None:
                    change = attacked.exp_().sub_(p)
                    if slope is not None:
                        change *= slope
                    gradient[rows] += product(change.to(part.weight.dtype), part.weight.T).to(total)
                    del change
                del attacked, p, slope
    return with_gradient(values, hidden, None if gradient is None else gradient.to(hidden.dtype))
