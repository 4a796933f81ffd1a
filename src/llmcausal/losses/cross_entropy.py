"""Next-token cross-entropy through a frozen head, in chunks of logits.

Each row's gradient is computed with its loss, so backward needs no logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear


@dataclass(frozen=True)
class OutputHead:
    """A frozen output head: `softcap * tanh((W h + b) / softcap)`, or `W h + b`."""

    weight: Tensor  # W [vocabulary, width]
    bias: Tensor | None = None  # b [vocabulary]
    softcap: float | None = None


def product(inputs: Tensor, weight: Tensor) -> Tensor:
    """Returns x @ W.T; in fp32 on a CPU by oneDNN, as fast as MKL on Intel and faster on AMD."""
    on_cpu = inputs.device.type == "cpu" and torch.backends.mkldnn.is_available()
    # oneDNN's product has no gradient.
    if on_cpu and inputs.dtype == torch.float32 and not wants_gradient(inputs):
        result: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, None, "none", [], "")
        return result
    return linear(inputs, weight)


def chunked_cross_entropy(
    hidden: Tensor, head: OutputHead, targets: Tensor, *, chunk: int = 256
) -> Tensor:
    """Returns each row's cross-entropy, with the logits of `chunk` rows at one time.

    Row i's gradient is `(softmax(z_i) - onehot(y_i)) W`, times the softcap's slope.

    Args:
        hidden: Hidden states that predict a label [n, width].
        head: On the hidden states' device.
        targets: Labels [n].

    Returns:
        Losses [n] in fp32 (fp64 for fp64 inputs).
    """
    gradient = torch.empty_like(hidden) if wants_gradient(hidden) else None
    losses = torch.empty(len(hidden), dtype=sum_dtype(hidden), device=hidden.device)
    with torch.no_grad():
        for start in range(0, len(hidden), chunk):
            rows = slice(start, start + chunk)
            z = capped_logits(hidden[rows], head)
            y = targets[rows, None]
            log_norm = torch.logsumexp(z, dim=-1, keepdim=True)
            losses[rows] = (log_norm - z.gather(-1, y)).squeeze(-1)
            if gradient is not None:
                slope = None if head.softcap is None else slope_of(z, head.softcap)
                z = z.sub_(log_norm).exp_()
                z.scatter_add_(-1, y, torch.full_like(y, -1, dtype=z.dtype))
                if slope is not None:
                    z *= slope
                gradient[rows] = product(z.to(head.weight.dtype), head.weight.T).to(hidden.dtype)
    return with_gradient(losses, hidden, gradient)


def streamed_cross_entropy(
    hidden: Tensor,
    head: OutputHead,
    targets: Tensor,
    *,
    vocabulary_chunk: int = 8192,
    label_chunk: int = 256,
) -> Tensor:
    """Returns each row's cross-entropy, with a head on the host that passes the device in chunks.

    An online log-sum-exp gives the loss; the same pass adds up the input gradient. Each call reads
    the whole head, so one call should have all terms' labels. Bytes on the device besides the
    arguments, for n rows of width w, chunks of V words and L labels, and b bytes per number of the
    head, h of the hidden states and a of the sums:

        2 V w b + n w (a + b) + L V (a + b) + L w (a + b)     during the pass
        n w (a + b) + n w (a + h)                              at the end; backward keeps n w h

    Without gradient there is no n w term. A softcap adds L V a. Llama 3.1 (w = 4096, b = h = 2,
    a = 4) with the default chunks: 128 + 12 + 12 + 6 = 158 MiB at 512 labels, 170 MiB at 1024.

    Args:
        hidden: As for `chunked_cross_entropy`; on the device, as targets and result.
        head: On the host; from pinned memory the copies to CUDA overlap with the products.
        vocabulary_chunk: The head's rows on the device at one time; twice as many on CUDA.
        label_chunk: Rows whose logits exist at one time.
    """
    wanted = wants_gradient(hidden)
    with torch.no_grad():
        sums = _Sums.start(hidden, head.weight.dtype, wanted)
        for first, part in head_parts(head, vocabulary_chunk, hidden):
            for start in range(0, len(hidden), label_chunk):
                rows = slice(start, start + label_chunk)
                z = capped_logits(hidden[rows], part)
                sums[rows].add(z, part, targets[rows, None] - first)
        losses, gradient = sums.finish(head.softcap)
        if gradient is not None:
            gradient = gradient.to(hidden.dtype)
        del sums
    return with_gradient(losses, hidden, gradient)


def head_parts(head: OutputHead, rows: int, hidden: Tensor) -> Iterator[tuple[int, OutputHead]]:
    """Yields parts of at most `rows` rows, in order, on the hidden states' device.

    Each part comes with its first row's number. Without hidden states there is no part.
    """
    first, bias = 0, head.bias
    for weight in _on_device(head.weight, rows if len(hidden) else 0, hidden.device):
        offset = None if bias is None else bias[first : first + len(weight)].to(hidden.device)
        yield first, OutputHead(weight, offset, head.softcap)
        first += len(weight)


def capped_logits(hidden: Tensor, head: OutputHead) -> Tensor:
    """Returns logits [n, rows of the head] in the sums' dtype."""
    weight, softcap = head.weight, head.softcap
    z = product(hidden.to(weight.dtype), weight).to(sum_dtype(hidden))
    if head.bias is not None:
        z += head.bias
    return z if softcap is None else z.div_(softcap).tanh_().mul_(softcap)


def sum_dtype(hidden: Tensor) -> torch.dtype:
    return torch.promote_types(hidden.dtype, torch.float32)


@dataclass(frozen=True)
class _Sums:
    """Each row's sums over the vocabulary so far; `add` changes them in place.

    The sums exclude the target. Its gradient, p - 1, equals minus the others' share, and near
    p = 1 the subtraction would lose all digits.
    """

    maximum: Tensor  # largest logit so far [n, 1]
    others: Tensor  # sum of exp(z - maximum) over all but the target [n, 1]
    target_logit: Tensor  # [n, 1]; undefined before its chunk
    # Sum of the head's rows with those weights, times the softcap's slope [n, width].
    product: Tensor | None
    target_row: Tensor | None  # the target's row of the head [n, width]; undefined before its chunk

    @classmethod
    def start(cls, hidden: Tensor, head_dtype: torch.dtype, differentiable: bool) -> _Sums:
        dtype = sum_dtype(hidden)
        zero = torch.zeros((len(hidden), 1), dtype=dtype, device=hidden.device)
        # Not -inf: differences stay defined in a chunk that is all -inf.
        maximum = torch.full_like(zero, torch.finfo(dtype).min)
        product = torch.zeros_like(hidden, dtype=dtype) if differentiable else None
        row = torch.zeros_like(hidden, dtype=head_dtype) if differentiable else None
        return cls(maximum, zero, zero.clone(), product, row)

    def __getitem__(self, rows: slice) -> _Sums:
        product = None if self.product is None else self.product[rows]
        target_row = None if self.target_row is None else self.target_row[rows]
        return _Sums(
            self.maximum[rows], self.others[rows], self.target_logit[rows], product, target_row
        )

    def add(self, z: Tensor, part: OutputHead, targets: Tensor) -> None:
        """Adds the head's next rows.

        Args:
            z: Logits [n, chunk]; overwritten.
            targets: Labels counted from the chunk's first row [n, 1]; may be outside of it.
        """
        weight, softcap = part.weight, part.softcap
        index = targets.clamp(0, len(weight) - 1)
        inside = index == targets
        self.target_logit.copy_(torch.where(inside, z.gather(1, index), self.target_logit))
        maximum = torch.maximum(self.maximum, z.amax(1, keepdim=True))
        decay = (self.maximum - maximum).exp_()
        self.maximum.copy_(maximum)
        slope = slope_of(z, softcap) if softcap is not None and self.product is not None else None
        z.sub_(maximum).exp_()
        z.scatter_(1, index, z.gather(1, index).masked_fill_(inside, 0))
        self.others.mul_(decay).add_(z.sum(1, keepdim=True))
        if self.product is None or self.target_row is None:
            return
        if slope is not None:
            z *= slope
        self.product.mul_(decay).add_(product(z.to(weight.dtype), weight.T))
        self.target_row.copy_(torch.where(inside, weight[index[:, 0]], self.target_row))

    def finish(self, softcap: float | None) -> tuple[Tensor, Tensor | None]:
        """Returns losses [n] and gradients [n, width]; overwrites the sums."""
        total = self.others + (self.target_logit - self.maximum).exp_()
        losses = (total.log() + (self.maximum - self.target_logit)).squeeze(1)
        if self.product is None or self.target_row is None:
            return losses, None
        share = self.others / total
        if softcap is not None:
            share *= slope_of(self.target_logit, softcap)
        return losses, self.product.div_(total).sub_(self.target_row * share)


def slope_of(z: Tensor, softcap: float) -> Tensor:
    """Returns a softcap's derivative at its capped logits."""
    return z.div(softcap).square_().neg_().add_(1)


def _on_device(head: Tensor, rows: int, device: torch.device) -> Iterator[Tensor]:
    """Yields the head's rows in order, at most `rows` at a time; none for 0 rows.

    A part is valid until the next one is requested. On CUDA a second stream copies the next part
    into the other of two buffers at the same time.
    """
    parts = head.split(rows) if rows else ()
    if device.type != "cuda" or head.device.type == "cuda":
        yield from (part.to(device) for part in parts)
        return
    main, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    buffers = [torch.empty_like(part, device=device) for part in parts[:2]]
    unused = main.record_event()  # the main stream may still use the buffers' memory
    try:
        for i in range(-1, len(parts)):
            if i >= 0:
                main.wait_stream(side)
                # The other buffer is free when all work before this moment is done.
                unused = main.record_event()
                yield buffers[i % 2][: len(parts[i])]
            # After the products are queued: a copy from pageable memory blocks the host.
            if i + 1 < len(parts):
                side.wait_event(unused)
                with torch.cuda.stream(side):
                    into = buffers[(i + 1) % 2][: len(parts[i + 1])]
                    into.copy_(parts[i + 1], non_blocking=True)
    finally:
        # The main stream must not reuse the buffers before the last copy is done.
        main.wait_stream(side)


def wants_gradient(hidden: Tensor) -> bool:
    """Whether autograd needs these rows' gradient."""
    return hidden.requires_grad and torch.is_grad_enabled()


def with_gradient(losses: Tensor, hidden: Tensor, gradient: Tensor | None) -> Tensor:
    """Returns losses [n], differentiable once; `gradient` is each one's by its row [n, width]."""
    if gradient is None:
        return losses
    differentiable: Tensor = _RowGradient.apply(hidden, losses, gradient)  # type: ignore[no-untyped-call]
    return differentiable


class _RowGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, losses: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return losses.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * upstream[0][:, None]).to(gradient.dtype), None, None
