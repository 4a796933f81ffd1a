"""Losses of rows whose gradients are computed beside them, so that backward needs no logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_Context = Any


def wants_gradient(hidden: Tensor) -> bool:
    """Tells whether a loss of these rows will be gone backward from."""
    return hidden.requires_grad and torch.is_grad_enabled()


def with_gradient(losses: Tensor, hidden: Tensor, gradient: Tensor | None) -> Tensor:
    """Returns the losses, differentiable once by the rows that they were computed from.

    Args:
        losses: One a row [n], without a graph.
        hidden: The rows [n, width].
        gradient: Of each row's loss by the row [n, width]; None if none is wanted.
    """
    if gradient is None:
        return losses
    differentiable: Tensor = _RowGradient.apply(hidden, losses, gradient)  # type: ignore[no-untyped-call]
    return differentiable


class _RowGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, hidden: Tensor, losses: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return losses.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, *upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * upstream[0][:, None]).to(gradient.dtype), None, None
