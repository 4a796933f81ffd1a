"""Next-token cross-entropy through a frozen head that stays on the host.

The head passes the device once, some rows of the vocabulary at a time. An online log-sum-exp gives
the loss, and the input gradient grows beside it, so neither all logits nor the whole head are ever
on the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from llmcausal.losses.row_gradient import wants_gradient, with_gradient


def streamed_cross_entropy(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    vocabulary_chunk: int = 8192,
    label_chunk: int = 256,
    softcap: float | None = None,
) -> Tensor:
    """Returns the cross-entropy of each row, reading the head once for all rows.

    Every call reads the head: give it the labels of all terms together. Bytes on the device beside
    the arguments, for n rows of width w, chunks of V words and L labels, head of b, hidden states
    of h and sums of a bytes a number:

        2 V w b + n w (a + b) + L V (a + b) + L w (a + b)     while the head passes by
        n w (a + b) + n w (a + h)                              at the end; n w h stay for backward

    Without gradient no n w term is left, and a softcap adds L V a. Llama 3.1 (w = 4096, b = h = 2,
    a = 4) with the default chunks: 128 + 12 + 12 + 6 = 158 MiB at 512 labels, 170 MiB at 1024.

    Args:
        hidden: Hidden states at the positions that predict a label [n, width], on the device.
        head: Frozen output projection [vocabulary, width], on the host. From pinned memory the
            copies to CUDA overlap with the products.
        targets: Labels [n], on the device.
        bias: Frozen output bias [vocabulary], on the host.
        vocabulary_chunk: Rows of the head on the device at one time; twice as many on CUDA.
        label_chunk: Rows whose logits exist at one time.
        softcap: Logit softcap, or None.

    Returns:
        Losses [n] in fp32 (fp64 for fp64 inputs).
    """
    wanted, chunks = wants_gradient(hidden), (vocabulary_chunk, label_chunk)
    with torch.no_grad():
        losses, gradient = _by_vocabulary(hidden, head, bias, targets, chunks, softcap, wanted)
    return with_gradient(losses, hidden, gradient)


def _by_vocabulary(
    hidden: Tensor,
    head: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    chunks: tuple[int, int],
    softcap: float | None,
    wanted: bool,
) -> tuple[Tensor, Tensor | None]:
    """Returns the losses, and the gradient of each row, summed up while the head is at hand."""
    vocabulary_chunk, label_chunk = chunks
    sums = _Sums.start(hidden, head.dtype, wanted)
    for first, weight, offset in head_parts(head, bias, vocabulary_chunk, hidden):
        for start in range(0, len(hidden), label_chunk):
            rows = slice(start, start + label_chunk)
            z = capped_logits(hidden[rows], weight, offset, softcap)
            sums[rows].add(z, weight, targets[rows, None] - first, softcap)
    losses, gradient = sums.finish(softcap)
    return losses, None if gradient is None else gradient.to(hidden.dtype)


def head_parts(
    head: Tensor, bias: Tensor | None, rows: int, hidden: Tensor
) -> Iterator[tuple[int, Tensor, Tensor | None]]:
    """Yields the head's rows in order, at most `rows` at a time, where the hidden states are.

    With the number of the first and their biases; nothing where there are no hidden states.
    """
    first = 0
    for weight in _on_device(head, rows if len(hidden) else 0, hidden.device):
        offset = None
        if bias is not None:
            offset = bias[first : first + len(weight)].to(hidden.device)
        yield first, weight, offset
        first += len(weight)


def capped_logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, softcap: float | None
) -> Tensor:
    """Returns logits [n, rows of the head], in the dtype of sums."""
    # Rounded as `chunked_cross_entropy` rounds them: the place of the head changes no loss.
    z = (hidden.to(weight.dtype) @ weight.T).to(sum_dtype(hidden))
    if bias is not None:
        z += bias
    return z if softcap is None else z.div_(softcap).tanh_().mul_(softcap)


def sum_dtype(hidden: Tensor) -> torch.dtype:
    """Returns the dtype that logits of these states are summed in."""
    return torch.promote_types(hidden.dtype, torch.float32)


@dataclass(frozen=True)
class _Sums:
    """What is known of each row after some of the vocabulary; `add` changes it in place.

    The target has no part in the sums: its share of the gradient, p - 1, is minus the share of
    all others, and a probability near 1 would lose its digits in the subtraction.

    Attributes:
        maximum: Largest logit so far [n, 1].
        others: Sum of exp(z - maximum) over all but the target [n, 1].
        target_logit: [n, 1]; undefined before its chunk.
        product: The head's rows summed with those weights, times the softcap's slope [n, width].
        target_row: The head's row of the target [n, width]; undefined before its chunk.
    """

    maximum: Tensor
    others: Tensor
    target_logit: Tensor
    product: Tensor | None
    target_row: Tensor | None

    @classmethod
    def start(cls, hidden: Tensor, head_dtype: torch.dtype, differentiable: bool) -> _Sums:
        dtype = sum_dtype(hidden)
        zero = torch.zeros((len(hidden), 1), dtype=dtype, device=hidden.device)
        # Not -inf: differences stay defined, also in a chunk of nothing but -inf.
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

    def add(self, z: Tensor, weight: Tensor, targets: Tensor, softcap: float | None) -> None:
        """Takes in the next rows of the head.

        Args:
            z: Logits [n, chunk]; overwritten.
            weight: Rows of the head [chunk, width].
            targets: Labels counted from the chunk's first row [n, 1]; may lie outside.
            softcap: Logit softcap, or None.
        """
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
        self.product.mul_(decay).add_(z.to(weight.dtype) @ weight)
        self.target_row.copy_(torch.where(inside, weight[index[:, 0]], self.target_row))

    def finish(self, softcap: float | None) -> tuple[Tensor, Tensor | None]:
        """Returns losses [n] and gradients [n, width], using up the sums."""
        total = self.others + (self.target_logit - self.maximum).exp_()
        losses = (total.log() + (self.maximum - self.target_logit)).squeeze(1)
        if self.product is None or self.target_row is None:
            return losses, None
        share = self.others / total
        if softcap is not None:
            share *= slope_of(self.target_logit, softcap)
        return losses, self.product.div_(total).sub_(self.target_row * share)


def slope_of(z: Tensor, softcap: float) -> Tensor:
    """Returns the derivative of a softcap at its capped logits."""
    return z.div(softcap).square_().neg_().add_(1)


def _on_device(head: Tensor, rows: int, device: torch.device) -> Iterator[Tensor]:
    """Yields the head's rows in order, at most `rows` at a time; none for 0 rows.

    What was yielded last is valid until the next is asked for. On CUDA the next rows travel on a
    stream of their own into the second of two buffers while those at hand are used.
    """
    parts = head.split(rows) if rows else ()
    if device.type != "cuda" or head.device.type == "cuda":
        yield from (part.to(device) for part in parts)
        return
    main, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    buffers = [torch.empty_like(part, device=device) for part in parts[:2]]
    unused = main.record_event()  # the buffers' memory may have had users on the main stream
    try:
        for i in range(-1, len(parts)):
            if i >= 0:
                main.wait_stream(side)
                # The other buffer is free once everything before this moment is done.
                unused = main.record_event()
                yield buffers[i % 2][: len(parts[i])]
            # Sent after the products were queued: from pageable memory the copy blocks the host.
            if i + 1 < len(parts):
                side.wait_event(unused)
                with torch.cuda.stream(side):
                    into = buffers[(i + 1) % 2][: len(parts[i + 1])]
                    into.copy_(parts[i + 1], non_blocking=True)
    finally:
        # Given back to the main stream's memory only after the last copy.
        main.wait_stream(side)
