"""Frozen linear layers computed from unpacked weights on a CPU.

bitsandbytes dequantizes a 4-bit weight at every product, and its fp32 products are MKL's, which
oneDNN's surpass on AMD processors. Here every frozen weight is dequantized once and laid out for
oneDNN in both directions, so that forward and backward are one fast product each. The numbers are
the same but for the rounding of fp32 sums; it takes 8 bytes of host memory a parameter.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from torch import Tensor, nn

LAYOUT_ROWS = 512
"""Rows that a weight is laid out for; other numbers of rows work, a little slower."""

MEMORY_SHARE = 0.5
"""Part of the free host memory that unpacked weights may take."""

_log = logging.getLogger(__name__)


class _FrozenProduct(torch.autograd.Function):
    """x @ W.T + b, with a gradient for x alone."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, transposed: Tensor, bias: Tensor | None
    ) -> Tensor:
        ctx.transposed = transposed
        return packed_product(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return packed_product(grads[0].contiguous(), ctx.transposed, None), None, None, None


def packed_product(inputs: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """Returns x @ W.T + b, with W as `_reorder_linear_weight` laid it out."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "none", [], "")
    return product


@contextmanager
def unpacked_frozen_weights(model: Any) -> Iterator[int]:
    """Swaps the products of frozen fp32 linear layers on the CPU; restores them afterwards.

    Layers that are trained, on another device or of another dtype are left as they are, and so is
    a model too large for the host's free memory.

    Args:
        model: Any model, also a `PeftModel`.

    Yields:
        How many layers are swapped; 0 without oneDNN.
    """
    # A step reads the output head's weight itself.
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    layers = [m for m in model.modules() if m is not head and _is_frozen(m)]
    layers = layers if _available() and fits_unpacked(layers, bytes_each=8) else []
    try:
        for layer in layers:
            layer.forward = _forward(layer)
        yield len(layers)
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def _available() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _is_frozen(layer: Any) -> bool:
    free = "forward" not in vars(layer)  # not somebody else's hook
    return free and is_dense(layer) and not layer.weight.requires_grad


def is_dense(layer: Any) -> bool:
    """Tells whether a layer is x @ W.T + b in fp32 on the CPU, with W known."""
    if isinstance(layer, Linear4bit):
        quantized = getattr(layer.weight, "quant_state", None) is not None
        fp32 = layer.compute_dtype == torch.float32
        return fp32 and quantized and layer.weight.device.type == "cpu"
    if type(layer) is not nn.Linear or type(layer.weight) is not nn.Parameter:  # a share of one
        return False
    return layer.weight.dtype == torch.float32 and layer.weight.device.type == "cpu"


def unpacked(layer: Any) -> tuple[Tensor, Tensor | None]:
    """Returns weight and bias of a dense layer in fp32, detached."""
    weight: Tensor = layer.weight.detach()
    if isinstance(layer, Linear4bit):
        packed: Any = layer.weight
        weight = dequantize_4bit(packed.data, packed.quant_state).to(torch.float32)
    return weight, None if layer.bias is None else layer.bias.detach().to(torch.float32)


def fits_unpacked(layers: list[Any], bytes_each: int) -> bool:
    """Tells whether the host has the memory, and warns if it has not.

    Args:
        layers: Dense layers.
        bytes_each: Bytes that each of their weights will take.
    """
    needed = sum(bytes_each * layer.out_features * layer.in_features for layer in layers)
    available = psutil.virtual_memory().available
    if needed > MEMORY_SHARE * available:
        _log.warning(
            "unpacked weights would take %.1f of %.1f GiB of free memory: going on with quantized "
            "ones, which is slower",
            needed / 2**30,
            available / 2**30,
        )
        return False
    return True


def _forward(layer: Any) -> Any:
    weight, bias = unpacked(layer)
    forward = torch.ops.mkldnn._reorder_linear_weight(weight, LAYOUT_ROWS)
    backward = torch.ops.mkldnn._reorder_linear_weight(weight.T.contiguous(), LAYOUT_ROWS)
    apply: Any = _FrozenProduct.apply

    def product(inputs: Tensor) -> Tensor:
        result: Tensor = apply(inputs, forward, backward, bias)
        return result

    return product
