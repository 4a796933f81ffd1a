"""Norms and MLP of each layer, some tokens at a time.

Under layer checkpoints the intermediates of one layer's whole tree are the peak of the backward
pass: those of the MLP are several times as wide as the hidden state, those of norms are in fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from llmcausal.errors import ConfigError
from llmcausal.model.fused import unread
from llmcausal.model.placement import base_model

_Forward = Callable[[Tensor], Tensor]


def chunk_tokens(model: nn.Module, tokens: int) -> int:
    """Makes the decoder's norms and MLPs take long inputs in chunks of about equal length.

    In training, the backward pass recomputes a chunk's intermediates together with its gradient.
    Layer checkpoints do not compute them a second time, unless a norm follows the MLP, as in
    Gemma. The recomputation has the forward pass's random numbers (dropout) and autocast.

    Args:
        tokens: A chunk's largest length, in place of an earlier call's; 0 restores the modules.

    Returns:
        How many layers work in chunks.

    Raises:
        ConfigError: If a layer's MLP is a mixture of experts, or none is found.
    """
    mlps = _named(model, "mlp")
    for name, mlp in mlps.items() if tokens else ():
        if any("experts" in part for part, _ in mlp.named_modules()):
            raise ConfigError(
                f"memory.token_chunk: {name} ({type(mlp).__name__}) is a mixture of experts, which "
                "sorts all tokens at once; set memory.token_chunk to 0"
            )
    if tokens and not mlps:
        raise ConfigError(
            f"memory.token_chunk: {type(model).__name__} has no layers with an `mlp`; set "
            "memory.token_chunk to 0"
        )
    for module in (*mlps.values(), *_named(model, "norm").values()):
        forward = module.forward
        plain = forward.plain if isinstance(forward, _ChunkedForward) else forward
        if tokens:
            module.forward = _ChunkedForward(module, plain, tokens)
        elif plain is not forward:
            module.forward = plain
    return len(mlps) if tokens else 0


def _named(model: nn.Module, ending: str) -> dict[str, nn.Module]:
    """Returns the modules of the decoder and of its layers, without those inside attention."""
    return {
        name: module
        for name, module in base_model(model).get_decoder().named_modules()
        if name.endswith(ending) and name.count(".") in (0, 2)
    }


@dataclass(eq=False)
class _ChunkedForward:
    """Replaces the forward of a module that works token by token."""

    module: nn.Module
    plain: _Forward
    tokens: int

    def __call__(self, hidden: Tensor) -> Tensor:
        """Returns the module's output for hidden states [..., width]."""
        rows = hidden.flatten(0, -2)[None]  # modules expect a batch dimension
        count = -(-rows.shape[1] // self.tokens)
        if count < 2:
            return self.plain(hidden)
        trained = [p for p in self.module.parameters() if p.requires_grad]
        if not torch.is_grad_enabled() or not (hidden.requires_grad or trained):
            return _forward_chunks(self.plain, rows, count).view_as(hidden)
        # torch records the functions below only if an input requires a gradient.
        asks = torch.empty(0, requires_grad=True)
        rows = _Remember.apply(rows, asks)  # type: ignore[no-untyped-call]
        output: Tensor = _Recomputed.apply(rows, self.plain, count, *trained)  # type: ignore[no-untyped-call]
        return output.view_as(hidden)


def parts_of(rows: Tensor, count: int) -> list[Tensor]:
    """Cuts rows [1, tokens, width] into `count` parts of about equal length, each a whole tensor.

    A slice of dimension 1 keeps the stride of all tokens in dimension 0. `linear` then takes a
    batched product, which copies the weight on a CPU.
    """
    return [part[None] for part in rows[0].tensor_split(count)]


def _forward_chunks(plain: _Forward, rows: Tensor, count: int) -> Tensor:
    output: Tensor | None = None
    start = 0
    for part in parts_of(rows, count):
        result = plain(part)
        if output is None:
            output = result.new_empty((1, rows.shape[1], result.shape[-1]))
        output[:, start : start + part.shape[1]] = result
        start += part.shape[1]
    assert output is not None
    return output


class _Remember(torch.autograd.Function):
    """Saves the module's input, and nothing else.

    A layer's recomputation stops once every saved tensor is back. This one is saved before the
    module runs, so that recomputation often stops before the module.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, asks: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        return upstream[0], None


class _Recomputed(torch.autograd.Function):
    """Runs a module in chunks without a graph, and again with a graph for each chunk's gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, plain: _Forward, count: int, *trained: Tensor) -> Tensor:
        device = rows.device
        ctx.memory, ctx.plain, ctx.count, ctx.trained = rows.grad_fn, plain, count, trained
        ctx.cuda_random = (device, torch.cuda.get_rng_state(device)) if rows.is_cuda else None
        ctx.random = torch.get_rng_state()
        # No cache: without a graph it would keep casts of adapters without a gradient.
        ctx.autocast = {
            "device_type": device.type,
            "dtype": torch.get_autocast_dtype(device.type),
            "enabled": torch.is_autocast_enabled(device.type),
            "cache_enabled": False,
        }
        with torch.autocast(**ctx.autocast):
            return _forward_chunks(plain, rows, count)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (rows,) = ctx.memory.saved_tensors
        gradient = torch.empty_like(rows)
        totals: list[Tensor | None] = [None] * len(ctx.trained)
        start = 0
        with _as_in_forward(ctx), torch.enable_grad(), ExitStack() as stack:
            for part in parts_of(rows.detach(), ctx.count):
                chunk = slice(start, start + part.shape[1])
                leaf = part.detach().requires_grad_()
                given = upstream[0][0, chunk][None]
                inputs = (leaf, *ctx.trained)
                output = ctx.plain(leaf)
                if not start:
                    stack.enter_context(unread(output))
                found = torch.autograd.grad(output, inputs, given, allow_unused=True)
                del output  # before the next chunk
                gradient[:, chunk] = found[0]
                totals = [_sum(*pair) for pair in zip(totals, found[1:], strict=True)]
                start = chunk.stop
        return gradient, None, None, *totals


def _sum(total: Tensor | None, found: Tensor | None) -> Tensor | None:
    if total is None or found is None:
        return found if total is None else total
    return total.add_(found)


@contextmanager
def _as_in_forward(ctx: Any) -> Iterator[None]:
    devices = [] if ctx.cuda_random is None else [ctx.cuda_random[0]]
    with torch.random.fork_rng(devices), torch.autocast(**ctx.autocast):
        torch.set_rng_state(ctx.random)
        if ctx.cuda_random is not None:
            torch.cuda.set_rng_state(ctx.cuda_random[1], ctx.cuda_random[0])
        yield
