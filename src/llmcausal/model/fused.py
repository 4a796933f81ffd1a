"""Adapted layers, MLPs and norms as one function each, on any device.

peft's forward makes three more tensors as wide as the output and passes over them five times, and
its backward pass adds up two gradients of the input. Here adapters' products are added into what
the frozen product wrote. The norm of transformers has fp32 copies; torch's has one kernel on CUDA.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from peft.tuners import lora
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu
from transformers.activations import SiLUActivation
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from llmcausal.model.lora import Adapter, plain_adapters
from llmcausal.model.placement import Nf4Linear

SILU = (nn.SiLU, SiLUActivation)


def fuse(model: PeftModel) -> None:
    """Replaces the forwards of modules of known forms, unless something else replaced them."""
    for module in model.modules():
        if "forward" in vars(module):
            continue
        if type(module) in (lora.Linear, lora.Linear4bit):
            module.forward = _FusedLora(module)
        elif _computes_as(module, LlamaMLP) and isinstance(module.act_fn, SILU):
            module.forward = _FusedMlp(module)
        elif _computes_as(module, LlamaRMSNorm):
            module.forward = _FusedNorm(module)


def _computes_as(module: Any, kind: type[nn.Module]) -> bool:
    """Tells whether a module's class has the same forward; transformers copies its own."""
    one, other = type(module).forward, kind.forward
    if not hasattr(one, "__code__"):
        return False
    return all(
        getattr(one.__code__, part) == getattr(other.__code__, part)
        for part in ("co_code", "co_names", "co_consts")
    )


class _FusedNorm:
    def __init__(self, norm: Any) -> None:
        self.norm = norm
        self.plain = norm.forward

    def __call__(self, hidden: Tensor) -> Tensor:
        weight = self.norm.weight
        if hidden.dtype != weight.dtype:
            plain: Tensor = self.plain(hidden)
            return plain
        # Not `rms_norm`: under autocast on CUDA it returns fp32.
        epsilon = self.norm.variance_epsilon
        return torch._fused_rms_norm(hidden, weight.shape, weight, epsilon)[0]


class _FusedMlp:
    def __init__(self, mlp: Any) -> None:
        self.mlp = mlp
        self.plain = mlp.forward

    def __call__(self, hidden: Tensor) -> Tensor:
        output: Tensor
        mlp = self.mlp
        if isinstance(vars(mlp.down_proj).get("forward"), _FusedLora):
            output = mlp.down_proj(mlp.gate_proj(hidden), mlp.up_proj(hidden))
        else:
            output = self.plain(hidden)
        return output


class _FusedLora:
    """Replaces an adapted layer's forward, for one input x or two: x = silu(gate) * up."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.plain = layer.forward
        self.unread = False  # whether nobody reads the values of its outputs

    def __call__(self, *inputs: Tensor, **kwargs: Any) -> Tensor:
        adapters = plain_adapters(self.layer)
        fused = not kwargs and adapters is not None and len(adapters) == 1
        output: Tensor
        if fused and adapters and _fits(self.layer.get_base_layer(), adapters[0], inputs[0]):
            (each,) = adapters
            low = _Kept.apply(each.down, *inputs)  # type: ignore[no-untyped-call]
            output = _Sum.apply(low, each.down, each.up, each.scale, self, *inputs)  # type: ignore[no-untyped-call]
        else:
            whole = silu(inputs[0]) * inputs[1] if len(inputs) == 2 else inputs[0]
            output = self.plain(whole, **kwargs)
        return output


def _fits(base: Any, adapter: Adapter, inputs: Tensor) -> bool:
    """Tells whether a layer is frozen, its adapter is trained, and both compute as the inputs.

    An fp32 adapter then computes in the inputs' dtype, as under autocast.
    """
    kind = inputs.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else inputs.dtype
    frozen = not any(each.requires_grad for each in base.parameters())
    trained = adapter.down.requires_grad and adapter.up.requires_grad
    known = type(base) in (nn.Linear, Linear4bit, Nf4Linear)
    return known and frozen and dtype == inputs.dtype and (trained or not torch.is_grad_enabled())


@contextmanager
def unread(output: Tensor) -> Iterator[None]:
    """Spares the product that made this output in passes that only prepare a backward pass."""
    owner = getattr(output.grad_fn, "owner", None)
    del output  # this frame stays until the last chunk
    if not isinstance(owner, _FusedLora):
        yield
        return
    owner.unread = True
    try:
        yield
    finally:
        owner.unread = False


class _Kept(torch.autograd.Function):
    """Keeps what `_Sum` needs, which keeps nothing; returns x @ A.T of a single input x.

    A layer's recomputation stops once every kept tensor is back: before the last product.
    """

    @staticmethod
    def forward(ctx: Any, down: Tensor, *inputs: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        first = inputs[0]
        low = first @ down.T.to(first.dtype) if len(inputs) == 1 else first.new_empty(0)
        ctx.save_for_backward(*inputs, low)
        return low

    @staticmethod
    def backward(ctx: Any, *upstream: None) -> tuple[None, ...]:
        return (None,) * len(ctx.needs_input_grad)


class _Sum(torch.autograd.Function):
    """x @ W.T + scale (x @ A.T) @ B.T (Hu et al., LoRA, 2021), with gradients of x, A and B."""

    @staticmethod
    def forward(ctx: Any, low: Tensor, down: Tensor, up: Tensor, *rest: Any) -> Tensor:
        ctx.scale, ctx.owner, *inputs = rest
        ctx.memory, ctx.down, ctx.up = low.grad_fn, down, up
        base = ctx.owner.layer.get_base_layer()
        # FSDP2 gathers a weight and its scales into the same storage for the backward pass.
        ctx.weight = base.weight
        ctx.state = getattr(base.weight, "quant_state", getattr(base, "quant_state", None))
        whole: Tensor = inputs[0]
        if ctx.owner.unread:
            return whole.new_empty(*whole.shape[:-1], len(up))
        if len(inputs) == 2:
            whole = silu(inputs[0]).mul_(inputs[1])
            low = whole @ down.T.to(whole.dtype)
        result: Tensor = base(whole)
        _add_product(result.view(-1, len(up)), _rows(low), up.T.to(low.dtype), ctx.scale)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Any, ...]:
        *inputs, low = ctx.memory.saved_tensors
        given = _rows(upstream[0])
        down, up = (each.to(given.dtype) for each in (ctx.down, ctx.up))
        whole = inputs[0]
        if len(inputs) == 2:
            active = silu(inputs[0])
            whole = active * inputs[1]
            low = whole @ down.T
        of_low = (given @ up).mul_(ctx.scale)
        of_down = (of_low.T @ _rows(whole)).to(ctx.down.dtype)
        of_up = (given.T @ _rows(low)).to(ctx.up.dtype).mul_(ctx.scale)
        trained = None, of_down, of_up, None, None
        del whole
        if not any(ctx.needs_input_grad[5:]):
            return *trained, *(None for _ in inputs)
        rows = given @ dense(ctx.weight, ctx.state).to(given.dtype)
        _add_product(rows, of_low, down)
        of_whole = rows.view(inputs[0].shape)
        if len(inputs) == 1:
            return *trained, of_whole
        of_second = active.mul_(of_whole)
        of_first = of_whole.mul_(inputs[1])
        torch.ops.aten.silu_backward.grad_input(of_first, inputs[0], grad_input=of_first)
        return *trained, of_first, of_second


def _rows(values: Tensor) -> Tensor:
    return values.reshape(-1, values.shape[-1])


def _add_product(total: Tensor, left: Tensor, right: Tensor, scale: float = 1.0) -> None:
    """Adds in place. torch's counter of FLOPs does not know `addmm_`."""
    torch.addmm(total, left, right, alpha=scale, out=total)


def dense(weight: Tensor, state: Any) -> Tensor:
    """Returns a linear layer's weight; `state` is that of 4-bit quantization, or None."""
    return weight if state is None else dequantize_4bit(weight, state)
