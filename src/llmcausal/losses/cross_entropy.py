"""Next-token cross-entropy through a frozen head, without ever holding all logits."""

from __future__ import annotations

import torch
from torch import Tensor

from llmcausal.losses.row_gradient import wants_gradient, with_gradient


def chunked_cross_entropy(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    chunk: int = 256,
    softcap: float | None = None,
) -> Tensor:
    """Returns the cross-entropy of each row.

    Args:
        hidden: Hidden states at the positions that predict a label [n, width].
        head: Frozen output projection [vocabulary, width].
        targets: Labels [n].
        bias: Frozen output bias [vocabulary].
        chunk: Rows whose logits exist at one time.
        softcap: Logit softcap, or None.

    Returns:
        Losses [n] in fp32 (fp64 for fp64 inputs).
    """
    gradient = torch.empty_like(hidden) if wants_gradient(hidden) else None
    with torch.no_grad():
        losses = _by_chunk(hidden, head, bias, targets, chunk, softcap, gradient)
    return with_gradient(losses, hidden, gradient)


def _by_chunk(
    hidden: Tensor,
    head: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    chunk: int,
    softcap: float | None,
    gradient: Tensor | None,
) -> Tensor:
    """Returns the losses, and fills in the gradient of each row while its logits exist.

    For row i that is `(softmax(z_i) - onehot(y_i)) W`, times `1 - (z_i / c)^2` under a softcap c.
    """
    accumulate = torch.promote_types(hidden.dtype, torch.float32)
    losses = torch.empty(len(hidden), dtype=accumulate, device=hidden.device)
    for start in range(0, len(hidden), chunk):
        rows = slice(start, start + chunk)
        z = (hidden[rows].to(head.dtype) @ head.T).to(accumulate)
        if bias is not None:
            z += bias
        if softcap is not None:
            z = softcap * torch.tanh(z / softcap)
        y = targets[rows, None]
        log_norm = torch.logsumexp(z, dim=-1, keepdim=True)
        losses[rows] = (log_norm - z.gather(-1, y)).squeeze(-1)
        if gradient is not None:
            slope = None if softcap is None else 1 - (z / softcap).square()
            z = z.sub_(log_norm).exp_()
            z.scatter_add_(-1, y, torch.full_like(y, -1, dtype=z.dtype))
            if slope is not None:
                z *= slope
            gradient[rows] = (z.to(head.dtype) @ head).to(hidden.dtype)
    return losses
