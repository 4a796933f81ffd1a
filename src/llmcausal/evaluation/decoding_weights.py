"""Linear layers computed from unpacked weights for as long as a model is evaluated on a CPU.

As `model/unpacked.py`, but for forward passes alone: the adapter's product is added to each weight
in fp32, and only the sum is laid out. The numbers are the same but for the rounding of fp32 sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from llmcausal.model.cpu_products import has_products, product
from llmcausal.model.unpacked import fits_unpacked, is_dense, is_plain_sum, unpacked

LAYOUT_ROWS = 64
"""Rows that oneDNN lays a weight out for; other numbers of rows work, a little slower."""


@contextmanager
def unpacked_weights(model: nn.Module) -> Iterator[None]:
    """Swaps the products of an fp32 model on the CPU; restores each layer afterwards.

    Anything else, or a model too large for the host's free memory, is left as it is. The adapter
    counts as it is switched on entry; the model must be in evaluation mode.
    """
    layers = _replaceable(model)
    if not fits_unpacked([_base(layer) for layer in layers], bytes_each=4):
        layers = []
    try:
        for layer in layers:
            layer.forward = _product(*_weight_and_bias(layer))
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def _replaceable(model: nn.Module) -> list[Any]:
    """Returns LoRA layers that are a plain sum, and linear layers that are in no such layer."""
    found: list[Any] = []
    inside: set[nn.Module] = set()
    for layer in model.modules():  # parents come before their children
        if layer in inside or "forward" in vars(layer):  # somebody else's hook
            continue
        if isinstance(layer, LoraLayer):
            base = layer.get_base_layer()
            if not is_plain_sum(layer) or not is_dense(base) or "forward" in vars(base):
                continue
            inside.update(layer.modules())
        elif not is_dense(layer):
            continue
        found.append(layer)
    return found


def _base(layer: Any) -> Any:
    return layer.get_base_layer() if isinstance(layer, LoraLayer) else layer


def _weight_and_bias(layer: Any) -> tuple[Tensor, Tensor | None]:
    base = _base(layer)
    weight, bias = unpacked(base)
    if base is not layer and not layer.disable_adapters:
        for name in layer.active_adapters:
            if name in layer.lora_A:
                weight = weight + layer.get_delta_weight(name).to(torch.float32)
    return weight, bias


def _product(weight: Tensor, bias: Tensor | None) -> Callable[..., Tensor]:
    if has_products():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, LAYOUT_ROWS)
        return partial(product, weight=packed, bias=bias)
    return partial(nn.functional.linear, weight=weight, bias=bias)
