"""Input embeddings and output head in host memory: looked up there, streamed from there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from llmcausal.config import MemorySection
from llmcausal.model.host_memory import empty_on_host


class HostHead(nn.Module):
    """An output head in host memory, of which the device holds some rows at a time.

    Training takes the loss through `losses.cross_entropy`; this is for whatever needs
    logits. Generation copies the whole head across for every token: right, and slow.

    Args:
        head: The linear layer whose weight and bias it takes over.
        vocabulary_chunk: Rows on the device at one time.
    """

    def __init__(self, head: Any, vocabulary_chunk: int) -> None:
        super().__init__()
        self.weight = head.weight
        self.bias = head.bias
        self.vocabulary_chunk = vocabulary_chunk

    def forward(self, hidden: Tensor) -> Tensor:
        """Turns hidden states [..., width] into logits [..., vocabulary] on their device."""
        return streamed_product(hidden, self.weight, self.bias, self.vocabulary_chunk)


def streamed_product(hidden: Tensor, weight: Tensor, bias: Tensor | None, chunk: int) -> Tensor:
    """Returns x @ W.T + b on the device of x, with `chunk` rows of W there at one time.

    Args:
        hidden: [..., width].
        weight: Frozen, [vocabulary, width], on any device.
        bias: Frozen, [vocabulary], beside the weight.
        chunk: Rows of the weight.
    """
    product: Tensor = _StreamedProduct.apply(hidden, weight, bias, chunk)  # type: ignore[no-untyped-call]
    return product


class _StreamedProduct(torch.autograd.Function):
    """x @ W.T + b, with a gradient for x alone; W crosses in the backward pass again."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, chunk: int
    ) -> Tensor:
        ctx.weight, ctx.chunk = weight, chunk
        product = hidden.new_empty(*hidden.shape[:-1], len(weight))
        for start in range(0, len(weight), chunk):
            rows = slice(start, start + chunk)
            part = weight[rows].to(hidden.device, non_blocking=True)
            added = None if bias is None else bias[rows].to(hidden.device, non_blocking=True)
            product[..., rows] = nn.functional.linear(hidden, part, added)
        return product

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = gradients
        # As one product would: rounded to the narrow type once, not with every chunk.
        dtype = torch.promote_types(gradient.dtype, torch.float32)
        total = gradient.new_zeros(*gradient.shape[:-1], ctx.weight.shape[1], dtype=dtype)
        for start in range(0, len(ctx.weight), ctx.chunk):
            rows = slice(start, start + ctx.chunk)
            part = ctx.weight[rows].to(gradient.device, non_blocking=True)
            total += gradient[..., rows].to(part.dtype) @ part
        return total.to(gradient.dtype), None, None, None


def compute_device(model: Any) -> torch.device:
    """Returns where a model computes: where the layers are, wherever embeddings and head are.

    Args:
        model: A transformers model; its own `device` is that of its first parameter.
    """
    embeddings = {id(parameter) for parameter in model.get_input_embeddings().parameters()}
    layers = (p for p in model.get_decoder().parameters() if id(p) not in embeddings)
    device: torch.device = next(layers).device
    return device


def weights_on_host(memory: MemorySection, *, tied: bool) -> frozenset[str]:
    """Returns which of `embeddings` and `head` stay in host memory.

    Args:
        memory: The switches.
        tied: Whether both are one tensor, which the device needs if either is to be there.
    """
    asked = frozenset(part for part in ("embeddings", "head") if getattr(memory, part) == "host")
    return asked if len(asked) == 2 or not tied else frozenset()


def hold_weights(model: Any, memory: MemorySection, device: torch.device) -> None:
    """Moves embeddings and head to host memory where the switches say so, and computes with them.

    Args:
        model: A frozen transformers model, without a `PeftModel` around it. Its parameters keep
            their names and stay whole, so it is saved as any other.
        memory: The switches.
        device: Where the layers are.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head is not None and head.weight is embedding.weight
    on_host = weights_on_host(memory, tied=tied)
    if "embeddings" in on_host and not _is_looked_up_on_host(embedding):
        _to_host(embedding, device)
        embedding.register_forward_pre_hook(_ids_to_host)
        # Ahead of all others, so that whatever watches the output sees it on the device.
        embedding.register_forward_hook(_RowsToDevice(device), prepend=True)
    if memory.head == "host" and head is not None:
        if "head" in on_host:
            _to_host(head, device)
        model.set_output_embeddings(HostHead(head, memory.vocabulary_chunk))


def _to_host(module: nn.Module, device: torch.device) -> None:
    for tensor in (*module.parameters(), *module.buffers()):
        movable = tensor.device.type != "cpu" or device.type == "cuda"
        if device.type != "cpu" and movable and not tensor.is_pinned():
            tensor.data = empty_on_host(tensor, device).copy_(tensor.data)


# Hooks around the embedding's own forward, so that models that scale embeddings do so still.


def _ids_to_host(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(ids.to("cpu") for ids in inputs)


class _RowsToDevice:
    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self, _module: nn.Module, _inputs: Any, rows: Tensor) -> Tensor:
        if self.device.type == "cuda":
            rows = empty_on_host(rows, self.device).copy_(rows)
        return rows.to(self.device, non_blocking=True)


def _is_looked_up_on_host(embedding: nn.Module) -> bool:
    return any(isinstance(hook, _RowsToDevice) for hook in embedding._forward_hooks.values())
