"""Products of an fp32 model on the CPU by oneDNN, with gradients for what is trained.

torch's own fp32 products are MKL's, which oneDNN's surpass on AMD processors. A weight is used as
it lies: with the rows of a training step, a layout made for oneDNN gains 2 to 6%, and would take 8
bytes a weight. The numbers are the same but for the rounding of fp32 sums.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu

_Gradients = tuple[Tensor | None, ...]


def has_products() -> bool:
    """Tells whether this build of torch has oneDNN's products."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns x @ W.T + b by oneDNN; W may be as `_reorder_linear_weight` laid it out."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return result


class _FrozenProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return product(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> _Gradients:
        return product(upstream[0].contiguous(), ctx.weight.T), None, None


class _LoraProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scale: float,
    ) -> Tensor:
        result, low = _lora_sum(inputs, weight, bias, down, up, scale)
        ctx.save_for_backward(inputs, low, down, up)
        ctx.weight, ctx.scale = weight, scale
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> _Gradients:
        inputs, low, down, up = ctx.saved_tensors
        found = _lora_gradients(upstream[0], inputs, low, ctx.weight, down, up, ctx.scale)
        return found[0], None, None, found[1], found[2], None


class _Remember(torch.autograd.Function):
    """Saves what `_GatedLoraProduct` needs, and nothing else.

    Saved by a function of its own before the product runs, it is the last that a layer's
    checkpoint needs back: its recomputation stops there and leaves the product out.
    """

    @staticmethod
    def forward(
        ctx: Any, gate: Tensor, up: Tensor, lora_down: Tensor, lora_up: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(gate, up, lora_down, lora_up)
        return gate.view_as(gate), up.view_as(up)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> _Gradients:
        return upstream[0], upstream[1], None, None


class _GatedLoraProduct(torch.autograd.Function):
    """`lora_product` of silu(gate) * up, which is computed again from the two in the backward."""

    @staticmethod
    def forward(
        ctx: Any,
        gate: Tensor,
        up: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        lora_down: Tensor,
        lora_up: Tensor,
        scale: float,
    ) -> Tensor:
        ctx.memory, ctx.weight, ctx.scale = gate.grad_fn, weight, scale
        return _lora_sum(silu(gate).mul_(up), weight, bias, lora_down, lora_up, scale)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> _Gradients:
        gate, up, lora_down, lora_up = ctx.memory.saved_tensors
        active = silu(gate)
        inputs = active * up
        low = product(inputs, lora_down).mul_(ctx.scale)
        gradient, of_down, of_up = _lora_gradients(
            upstream[0], inputs, low, ctx.weight, lora_down, lora_up, ctx.scale
        )
        of_up_branch = active.mul_(gradient)
        of_gate = torch.ops.aten.silu_backward(gradient.mul_(up), gate)
        return of_gate, of_up_branch, None, None, of_down, of_up, None


def frozen_product(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Returns x @ W.T + b, with a gradient for x alone."""
    result: Tensor = _FrozenProduct.apply(inputs, weight, bias)  # type: ignore[no-untyped-call]
    return result


def lora_product(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    down: Tensor,
    up: Tensor,
    scale: float,
) -> Tensor:
    """Returns x @ W.T + b + scale (x @ A.T) @ B.T, with gradients for x, A and B.

    Hu et al., LoRA, 2021. What is kept for the backward pass is x and x @ A.T.

    Args:
        inputs: [..., in].
        weight: Frozen [out, in].
        bias: Frozen [out], or None.
        down: A [rank, in].
        up: B [out, rank].
        scale: Of the adapter's product.
    """
    result: Tensor = _LoraProduct.apply(inputs, weight, bias, down, up, scale)  # type: ignore[no-untyped-call]
    return result


def gated_lora_product(
    gate: Tensor,
    up: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    lora_down: Tensor,
    lora_up: Tensor,
    scale: float,
) -> Tensor:
    """Returns the `lora_product` of silu(gate) * up, keeping those two for the backward pass.

    Args:
        gate: Before its activation [..., in].
        up: What it is multiplied with [..., in].
        weight: Frozen [out, in].
        bias: Frozen [out], or None.
        lora_down: [rank, in].
        lora_up: [out, rank].
        scale: Of the adapter's product.
    """
    if gate.requires_grad and up.requires_grad and torch.is_grad_enabled():
        gate, up = _Remember.apply(gate, up, lora_down, lora_up)  # type: ignore[no-untyped-call]
        result: Tensor = _GatedLoraProduct.apply(  # type: ignore[no-untyped-call]
            gate, up, weight, bias, lora_down, lora_up, scale
        )
        return result
    return lora_product(silu(gate) * up, weight, bias, lora_down, lora_up, scale)


def _lora_sum(
    inputs: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Returns what `lora_product` does, and scale (x @ A.T)."""
    low = product(inputs, down).mul_(scale)
    return product(inputs, weight, bias).add_(product(low, up)), low


def _lora_gradients(
    upstream: Tensor,
    inputs: Tensor,
    low: Tensor,
    weight: Tensor,
    down: Tensor,
    up: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of the inputs, A and B; `low` is scale (x @ A.T)."""
    upstream = upstream.contiguous()
    of_low = product(upstream, up.T).mul_(scale)
    of_inputs = product(upstream, weight.T).add_(product(of_low, down.T))
    rows = inputs.flatten(0, -2)
    of_down = product(of_low.flatten(0, -2).T.contiguous(), rows.T)
    of_up = product(low.flatten(0, -2).T.contiguous(), upstream.flatten(0, -2).T).T
    return of_inputs, of_down, of_up
