"""What a decoder layer on a CPU is made of: linear layers with their adapters, and norms.

Frozen weights are dequantized once into the compute dtype, layers that read the same input are one
product, and adapters are added in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.functional import linear


def product(inputs: Tensor, weight: Tensor) -> Tensor:
    """Returns x @ W.T; in fp32 by oneDNN, which MKL does not surpass and on AMD falls behind."""
    if inputs.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        result: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, None, "none", [], "")
        return result
    return linear(inputs, weight)


@dataclass(frozen=True)
class _Adapter:
    """A LoRA adapter of one linear layer: its matrices, scale, and the outputs that it adds to."""

    down: Tensor
    up: Tensor
    scale: float
    outputs: slice


@dataclass(frozen=True)
class Adapters:
    """The adapters of a `Linears` as they were at one moment, joined.

    Attributes:
        parts: Each of them.
        down: Their A, one below the other [ranks, in]; None without adapters.
        up: Their scaled B, each at its outputs and ranks [out, ranks].
    """

    parts: tuple[_Adapter, ...] = ()
    down: Tensor | None = None
    up: Tensor | None = None


class Linears:
    """Frozen linear layers that read the same input, as one product with their adapters.

    Hu et al., LoRA, 2021: x @ W.T + b + scale (x @ A.T) @ B.T for each layer.

    Args:
        modules: Linear layers, or LoRA layers around them.
        dtype: Compute dtype.
    """

    @torch.inference_mode(False)  # the weights are trained against once an evaluation is over
    def __init__(self, modules: Sequence[Any], dtype: torch.dtype) -> None:
        self.modules = modules
        self.dtype = dtype
        bases = [base_of(module) for module in modules]
        self.weight = torch.cat([_dense(base, dtype) for base in bases])
        ends = torch.tensor([base.out_features for base in bases]).cumsum(0).tolist()
        self.outputs = [slice(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
        for base, outputs in zip(bases, self.outputs, strict=True):
            if not isinstance(base, Linear4bit):  # held once: the layer's own is a part of it
                base.weight.data = self.weight[outputs]
        biases = [base.bias for base in bases]
        self.bias: Tensor | None = None
        if any(bias is not None for bias in biases):
            parts = [
                self.weight.new_zeros(base.out_features) if bias is None else bias.detach()
                for base, bias in zip(bases, biases, strict=True)
            ]
            self.bias = torch.cat(parts).to(dtype)
        self.adapters = Adapters()

    @torch.inference_mode(False)
    def let_go(self) -> None:
        """Gives layers that are not quantized weights of their own again."""
        for base, outputs in zip(map(base_of, self.modules), self.outputs, strict=True):
            if not isinstance(base, Linear4bit):
                base.weight.data = self.weight[outputs].clone()

    def read_adapters(self) -> bool:
        """Takes the adapters as they are now; tells whether they can be computed here."""
        parts: list[_Adapter] = []
        for module, outputs in zip(self.modules, self.outputs, strict=True):
            if not isinstance(module, LoraLayer):
                continue
            found = _adapter(module)
            if found is None:
                return False
            parts += [_Adapter(*each, outputs) for each in found]
        self.adapters = self._joined(parts)
        return True

    def _joined(self, parts: list[_Adapter]) -> Adapters:
        if not parts:
            return Adapters()
        downs = [each.down.detach() for each in parts]
        up = self.weight.new_zeros(len(self.weight), sum(map(len, downs)))
        start = 0
        for each, down in zip(parts, downs, strict=True):
            columns = slice(start, start + len(down))
            up[each.outputs, columns] = each.up.detach().to(self.dtype) * each.scale
            start = columns.stop
        return Adapters(tuple(parts), torch.cat(downs).to(self.dtype), up)

    @property
    def trained(self) -> list[Tensor]:
        """Both matrices of each adapter."""
        return [matrix for each in self.adapters.parts for matrix in (each.down, each.up)]

    def __call__(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the outputs [n, out], and x @ A.T of all adapters [n, ranks]."""
        result = product(inputs, self.weight)
        if self.bias is not None:
            result += self.bias
        down, up = self.adapters.down, self.adapters.up
        if down is None or up is None:
            return result, inputs.new_empty(0)
        low = inputs @ down.T
        return result.addmm_(low, up.T), low

    def backward(
        self,
        adapters: Adapters,
        upstream: Tensor,
        inputs: Tensor,
        low: Tensor,
        *,
        to_input: bool = True,
    ) -> tuple[Tensor, list[Tensor]]:
        """Returns the gradient of the inputs (not filled in if not asked for), and of `trained`.

        Args:
            adapters: As they were in the forward pass; a later call may have read others.
            upstream: Gradient of the outputs [n, out].
            inputs: Of the forward pass [n, in].
            low: Its second result [n, ranks].
            to_input: Whether the inputs need a gradient.
        """
        of_input = product(upstream, self.weight.T) if to_input else torch.empty_like(inputs)
        if adapters.down is None or adapters.up is None:
            return of_input, []
        of_low = upstream @ adapters.up
        if to_input:
            of_input.addmm_(of_low, adapters.down)
        of_down = of_low.T @ inputs
        gradients, start = [], 0
        for each in adapters.parts:
            part = slice(start, start + len(each.down))
            start = part.stop
            of_up = (low[:, part].T @ upstream[:, each.outputs]).T
            gradients += [of_down[part].to(each.down.dtype), of_up.to(each.up.dtype) * each.scale]
        return of_input, gradients


def base_of(module: Any) -> Any:
    """Returns the frozen layer inside a LoRA layer, or the layer itself."""
    return module.get_base_layer() if isinstance(module, LoraLayer) else module


def _dense(layer: Any, dtype: torch.dtype) -> Tensor:
    weight: Tensor = layer.weight.detach()
    if isinstance(layer, Linear4bit):
        packed: Any = layer.weight
        weight = dequantize_4bit(packed.data, packed.quant_state)
    return weight.to(dtype)


def _adapter(layer: Any) -> list[tuple[Tensor, Tensor, float]] | None:
    """Returns A, B and the scale of each adapter that adds a plain product, or None."""
    if layer.merged or layer.lora_variant or any(layer.lora_bias.values()):
        return None
    if layer.disable_adapters:
        return []
    found = []
    for name in layer.active_adapters:
        if name not in layer.lora_A:
            continue
        dropout, down, up = layer.lora_dropout[name], layer.lora_A[name], layer.lora_B[name]
        idle = isinstance(dropout, nn.Identity) or not layer.training
        if not idle or type(down) is not nn.Linear or type(up) is not nn.Linear:
            return None
        found.append((down.weight, up.weight, layer.scaling[name]))
    return found


def is_frozen(layer: Any) -> bool:
    """Tells whether a layer is x @ W.T + b on the CPU, with a whole W that is not trained."""
    if isinstance(layer, Linear4bit):
        known = getattr(layer.weight, "quant_state", None) is not None
    else:
        known = type(layer) is nn.Linear and type(layer.weight) is nn.Parameter
    return known and layer.weight.device.type == "cpu" and not layer.weight.requires_grad


@dataclass
class Norm:
    """Root mean square norm (Zhang and Sennrich, 2019) with its sums in fp32."""

    weight: Tensor
    epsilon: float

    def __call__(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the normed rows, and what each was multiplied by [n, 1]."""
        wide = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
        factor = torch.rsqrt(wide.square().mean(-1, keepdim=True).add_(self.epsilon))
        return self.apply(inputs, factor), factor

    def apply(self, inputs: Tensor, factor: Tensor) -> Tensor:
        return (inputs.to(factor.dtype) * factor).to(inputs.dtype).mul_(self.weight)

    def backward(self, upstream: Tensor, inputs: Tensor, factor: Tensor) -> Tensor:
        """Returns the gradient of the inputs, wide."""
        normed = inputs.to(factor.dtype) * factor
        given = upstream.to(factor.dtype) * self.weight
        share = (normed * given).mean(-1, keepdim=True)
        return given.addcmul_(normed, share, value=-1).mul_(factor)
