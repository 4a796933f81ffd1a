"""Linear layers of a model that is trained on a CPU, computed by oneDNN from unpacked weights.

bitsandbytes dequantizes a 4-bit weight at every product. Here every frozen 4-bit weight is
dequantized once, which takes 4 bytes of host memory a parameter; an fp32 one is used as it lies.
Products are those of `cpu_products`: a LoRA layer's are one function, and an MLP of Llama's form
keeps what its two first layers give and no more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import psutil
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from llmcausal.model.cpu_products import (
    frozen_product,
    gated_lora_product,
    has_products,
    lora_product,
)
from llmcausal.model.token_chunks import plain_forward, replace_plain_forward

MEMORY_SHARE = 0.5
"""Part of the free host memory that unpacked weights may take."""

_Forward = Callable[..., Tensor]
_log = logging.getLogger(__name__)


@contextmanager
def unpacked_frozen_weights(model: Any) -> Iterator[int]:
    """Swaps the products of frozen fp32 linear layers on the CPU; restores them afterwards.

    Layers that are trained, on another device or of another dtype are left as they are, and so are
    4-bit ones whose weights are too large for the host's free memory.

    Args:
        model: Any model, also a `PeftModel`.

    Yields:
        How many layers are swapped; 0 without oneDNN.
    """
    # A step reads the output head's weight itself.
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    layers = [m for m in model.modules() if m is not head and _is_frozen(m)]
    quantized = [layer for layer in layers if isinstance(layer, Linear4bit)]
    if not has_products():
        layers = []
    elif not fits_unpacked(quantized, bytes_each=4):
        layers = [layer for layer in layers if not isinstance(layer, Linear4bit)]
    weights = {layer: unpacked(layer) for layer in layers}
    with ExitStack() as swapped:
        for layer, (weight, bias) in weights.items():
            swapped.enter_context(
                _swapped(layer, partial(frozen_product, weight=weight, bias=bias))
            )
        for module in list(model.modules()):
            if isinstance(module, LoraLayer) and module.get_base_layer() in weights:
                base = weights[module.get_base_layer()]
                if is_plain_sum(module) and "forward" not in vars(module):
                    swapped.enter_context(_swapped(module, _lora_forward(module, *base)))
        for module in model.modules():
            down = getattr(module, "down_proj", None)
            if isinstance(down, LoraLayer) and down.get_base_layer() in weights:
                forward = _gated_forward(module, *weights[down.get_base_layer()])
                if is_plain_sum(down) and _agree(module, forward):
                    swapped.enter_context(_swapped(module, forward))
        yield len(layers)


@contextmanager
def _swapped(module: Any, forward: _Forward) -> Iterator[None]:
    own = "forward" in vars(module)
    before = plain_forward(module)
    replace_plain_forward(module, forward)
    try:
        yield
    finally:
        replace_plain_forward(module, before)
        if not own and module.forward is before:
            del module.forward


def _is_frozen(layer: Any) -> bool:
    free = "forward" not in vars(layer)  # not somebody else's hook
    return free and is_dense(layer) and not layer.weight.requires_grad


def is_plain_sum(layer: Any) -> bool:
    """Tells whether a LoRA layer is x @ W.T + b + scale (x @ A.T) @ B.T, but for dropout."""
    return not (layer.merged or layer.lora_variant or any(layer.lora_bias.values()))


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


def _adapter(layer: Any) -> tuple[Tensor, Tensor, float] | None:
    """Returns A, B and the scale of the one adapter that a layer adds as it is called, if so."""
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    if layer.disable_adapters or layer.merged or len(active) != 1:
        return None
    (name,) = active
    dropout, down, up = layer.lora_dropout[name], layer.lora_A[name], layer.lora_B[name]
    if not isinstance(dropout, nn.Identity) or not (is_dense(down) and is_dense(up)):
        return None
    return down.weight, up.weight, layer.scaling[name]


def _lora_forward(layer: Any, weight: Tensor, bias: Tensor | None) -> _Forward:
    plain = layer.forward

    def forward(inputs: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        adapter = _adapter(layer)
        if adapter is None or args or kwargs:
            other: Tensor = plain(inputs, *args, **kwargs)
            return other
        return lora_product(inputs, weight, bias, *adapter)

    return forward


def _gated_forward(mlp: Any, weight: Tensor, bias: Tensor | None) -> _Forward:
    plain = plain_forward(mlp)

    def forward(hidden: Tensor) -> Tensor:
        adapter = _adapter(mlp.down_proj)
        if adapter is None:
            return plain(hidden)
        gate, up = mlp.gate_proj(hidden), mlp.up_proj(hidden)
        return gated_lora_product(gate, up, weight, bias, *adapter)

    return forward


def _agree(mlp: Any, forward: _Forward) -> bool:
    """Tells whether an MLP is of Llama's form: others have the same parts and add to them."""
    gate: Any = getattr(mlp, "gate_proj", None)
    if not hasattr(gate, "in_features") or not hasattr(mlp, "up_proj"):
        return False
    hidden = torch.linspace(-2, 2, 3 * gate.in_features).view(1, 3, -1)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):  # dropout must not change the run
        wanted = plain_forward(mlp)(hidden)
        return torch.allclose(
            forward(hidden), wanted, rtol=1e-3, atol=1e-4 * wanted.abs().max().item()
        )
