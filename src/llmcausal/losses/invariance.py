"""Divergence of the answer's distributions: under attack from those without it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from llmcausal.losses.row_gradient import wants_gradient, with_gradient
from llmcausal.losses.streamed_cross_entropy import on_device


def divergence(
    hidden: Tensor,
    clean: Tensor,
    head: Tensor,
    *,
    bias: Tensor | None = None,
    chunk: int = 256,
    vocabulary_chunk: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Returns `KL(softmax(W clean) || softmax(W hidden))` of each row, without holding all logits.

    Differentiable by `hidden` alone: the gradient of row i is `(p_hidden - p_clean) W`, with the
    softcap's slope where there is one.

    Args:
        hidden: States that predict the answer under attack [n, width].
        clean: Those without the attack [n, width].
        head: Frozen output projection [vocabulary, width]; on the host if `vocabulary_chunk`.
        bias: Frozen output bias [vocabulary].
        chunk: Rows whose logits exist at one time.
        vocabulary_chunk: Rows of the head that are on the device at one time; None: all.
        softcap: Logit softcap, or None.

    Returns:
        Divergences [n], in nats, in fp32 (fp64 for fp64 inputs).
    """
    wanted = wants_gradient(hidden)
    total = torch.promote_types(hidden.dtype, torch.float32)
    gradient = torch.zeros_like(hidden, dtype=total) if wanted else None
    values = torch.zeros(len(hidden), dtype=total, device=hidden.device)
    with torch.no_grad():
        norms = [torch.full_like(values, -torch.inf) for _ in range(2)]
        passes = _Passes(head, bias, chunk, vocabulary_chunk, softcap)
        for rows, weight, offset in passes.parts(hidden):
            for norm, states in zip(norms, (hidden, clean), strict=True):
                z = passes.logits(states[rows], weight, offset)
                norm[rows] = torch.logaddexp(norm[rows], torch.logsumexp(z, -1))
        for rows, weight, offset in passes.parts(hidden):
            attacked = passes.logits(hidden[rows], weight, offset)
            slope = None if softcap is None else 1 - (attacked / softcap).square()
            attacked -= norms[0][rows, None]
            right = passes.logits(clean[rows], weight, offset) - norms[1][rows, None]
            p = right.exp()
            values[rows] += (p * (right - attacked)).sum(-1)
            if gradient is not None:
                change = attacked.exp_().sub_(p)
                if slope is not None:
                    change *= slope
                gradient[rows] += (change.to(weight.dtype) @ weight).to(total)
    return with_gradient(values, hidden, None if gradient is None else gradient.to(hidden.dtype))


class _Passes:
    """Walks over rows and vocabulary; a head on the host comes across once a pass."""

    def __init__(
        self,
        head: Tensor,
        bias: Tensor | None,
        chunk: int,
        vocabulary_chunk: int | None,
        softcap: float | None,
    ) -> None:
        self.head, self.bias, self.softcap = head, bias, softcap
        self.chunk = chunk
        self.words = vocabulary_chunk

    def parts(self, hidden: Tensor) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
        first = 0
        weights: Iterable[Tensor] = [self.head]
        if self.words is not None:
            weights = on_device(self.head, self.words if len(hidden) else 0, hidden.device)
        for weight in weights:
            offset = None
            if self.bias is not None:
                offset = self.bias[first : first + len(weight)].to(hidden.device)
            for start in range(0, len(hidden), self.chunk):
                yield slice(start, start + self.chunk), weight, offset
            first += len(weight)

    def logits(self, states: Tensor, weight: Tensor, offset: Tensor | None) -> Tensor:
        z = (states.to(weight.dtype) @ weight.T).to(
            torch.promote_types(states.dtype, torch.float32)
        )
        if offset is not None:
            z += offset
        return z if self.softcap is None else self.softcap * torch.tanh(z / self.softcap)
