"""A model's weights on the device, in host memory, or divided among processes."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from bitsandbytes import matmul_4bit
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from torch import Tensor, nn

from llmcausal.config import MemorySection
from llmcausal.losses.cross_entropy import OutputHead, head_parts

_log = logging.getLogger(__name__)


def base_model(model: Any) -> Any:
    """Returns the model inside a `PeftModel`, or the model itself."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def parts_on_host(model: Any, memory: MemorySection) -> dict[str, Any]:
    """Returns which of a model's `embeddings` and `head` stay in host memory.

    Tied, both are one tensor, which the device needs for either part.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    parts = {"embeddings": embedding, "head": head}
    chosen = {n: p for n, p in parts.items() if getattr(memory, n) == "host" and p is not None}
    tied = head is not None and head.weight is embedding.weight
    return {} if tied and len(chosen) < 2 else chosen


def compute_device(model: Any) -> torch.device:
    """Returns the device of a transformers model's layers.

    The model's `device` is the first parameter's, and embeddings may be in host memory.
    """
    embeddings = {id(parameter) for parameter in model.get_input_embeddings().parameters()}
    layers = (p for p in model.get_decoder().parameters() if id(p) not in embeddings)
    device: torch.device = next(layers).device
    return device


def empty_on_host(like: Tensor, device: torch.device) -> Tensor:
    """Returns host memory for copies to or from a device; pinned for CUDA, if possible."""
    if device.type == "cuda":
        try:
            return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)
        except RuntimeError:  # WSL and containers limit pinned memory
            _warn_unpinned()
    return torch.empty(like.shape, dtype=like.dtype, device="cpu")


@cache
def _warn_unpinned() -> None:
    _log.warning("host memory cannot be pinned (any more): copies wait for one another")


def hold_weights(model: Any, memory: MemorySection, device: torch.device) -> None:
    """Moves embeddings and head to host memory if the switches say so, and computes with them.

    Args:
        model: A frozen transformers model, without a `PeftModel` around it. Its parameters keep
            their names and stay whole, so it is saved like any other model.
    """
    on_host = parts_on_host(model, memory)
    for part in on_host.values():
        _to_host(part, device)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    hooks = embedding._forward_hooks.values()
    if "embeddings" in on_host and not any(isinstance(each, _RowsToDevice) for each in hooks):
        # Hooks leave the embedding's own forward in use: some models scale embeddings there.
        embedding.register_forward_pre_hook(_ids_to_host)
        # First, so that other hooks see the output on the device.
        embedding.register_forward_hook(_RowsToDevice(device), prepend=True)
    if memory.head == "host" and head is not None:
        model.set_output_embeddings(HostHead(head, memory.vocabulary_chunk))


def _to_host(module: nn.Module, device: torch.device) -> None:
    for tensor in (*module.parameters(), *module.buffers()):
        movable = tensor.device.type != "cpu" or device.type == "cuda"
        if device.type != "cpu" and movable and not tensor.is_pinned():
            tensor.data = empty_on_host(tensor, device).copy_(tensor.data)


def _ids_to_host(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(ids.to("cpu") for ids in inputs)


@dataclass(frozen=True)
class _RowsToDevice:
    device: torch.device

    def __call__(self, _module: nn.Module, _inputs: Any, rows: Tensor) -> Tensor:
        if self.device.type == "cuda":
            rows = empty_on_host(rows, self.device).copy_(rows)
        return rows.to(self.device, non_blocking=True)


class HostHead(nn.Module):
    """An output head in host memory; the device holds `vocabulary_chunk` rows at a time.

    It is for logits; training takes the loss through `losses.cross_entropy`. Generation copies the
    whole head to the device for every token, which is slow.
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
    """Returns x @ W.T + b on the device of x, which holds `chunk` rows of W at one time.

    Args:
        hidden: [..., width].
        weight: Frozen, [vocabulary, width], on any device.
        bias: Frozen, [vocabulary], where the weight is.
    """
    product: Tensor = _StreamedProduct.apply(hidden, weight, bias, chunk)  # type: ignore[no-untyped-call]
    return product


class _StreamedProduct(torch.autograd.Function):
    """x @ W.T + b, with a gradient for x only; the backward pass copies W again."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, chunk: int
    ) -> Tensor:
        ctx.weight, ctx.chunk = weight, chunk
        product = hidden.new_empty(*hidden.shape[:-1], len(weight))
        for first, part in head_parts(OutputHead(weight, bias), chunk, hidden):
            rows = slice(first, first + len(part.weight))
            product[..., rows] = nn.functional.linear(hidden, part.weight, part.bias)
        return product

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = gradients
        # As one product would: rounded to the narrow type once, not with every chunk.
        dtype = torch.promote_types(gradient.dtype, torch.float32)
        total = gradient.new_zeros(*gradient.shape[:-1], ctx.weight.shape[1], dtype=dtype)
        for first, part in head_parts(OutputHead(ctx.weight), ctx.chunk, gradient):
            rows = slice(first, first + len(part.weight))
            total += gradient[..., rows].to(part.weight.dtype) @ part.weight
        return total.to(gradient.dtype), None, None, None


class Nf4Linear(nn.Module):
    """A frozen 4-bit linear layer whose weight and scales are plain parameters.

    FSDP2 replaces parameters by shares, and would lose the scales of bitsandbytes' parameter. The
    quantized layer loses its tensors.
    """

    def __init__(self, layer: Linear4bit) -> None:
        super().__init__()
        quantized: Any = layer.weight
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.compute_dtype = layer.compute_dtype
        self.quant_state = quantized.quant_state
        self.weight = nn.Parameter(quantized.data, requires_grad=False)
        self.absmax = nn.Parameter(self.quant_state.absmax, requires_grad=False)
        self.quant_state.absmax = None  # only the share is held
        self.bias = layer.bias
        del layer.weight  # it refers to its layer, so both would stay alive

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns x @ W.T + b for inputs [..., in_features], in their dtype."""
        dtype = self.compute_dtype or inputs.dtype
        # FSDP2 gathers into the same storage each time. So these scales, and the weight that the
        # product keeps, are valid again when the backward pass gathers the layer.
        self.quant_state.absmax = self.absmax
        bias = None if self.bias is None else self.bias.to(dtype)
        product: Tensor = matmul_4bit(
            inputs.to(dtype), self.weight, bias=bias, quant_state=self.quant_state
        )
        return product.to(inputs.dtype)


def shard_layers(model: PeftModel, memory: MemorySection, device: torch.device) -> None:
    """Gives each process its share of the frozen layers (FSDP2); all else goes to the device.

    From now on all processes run every forward and backward pass together. The device holds the
    shares and at most two whole layers. Each process holds all adapters, embeddings, the final norm
    and the head; processes exchange no gradient.

    Args:
        model: With its adapters; its weights may be in host memory.
        memory: Whether embeddings and head stay there.
        device: Where to compute; all processes of the default group share the layers.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    base: Any = model.get_base_model()
    decoder = base.get_decoder()
    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    for layer in decoder_layers(base):
        use_plain_parameters(layer, device)
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=trained)
    whole = {each for each in decoder.parameters() if type(each) is nn.Parameter}
    fully_shard(decoder, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
    on_host = parts_on_host(base, memory).values()
    staying = {id(tensor) for part in on_host for tensor in part.parameters()}
    for tensor in (*base.parameters(), *base.buffers()):
        if type(tensor) in (nn.Parameter, Tensor) and id(tensor) not in staying:
            tensor.data = tensor.data.to(device)


def decoder_layers(base: Any) -> nn.ModuleList:
    return layer_stack(base.get_decoder(), base.config.get_text_config().num_hidden_layers)


def layer_stack(decoder: nn.Module, layers: int) -> nn.ModuleList:
    """Finds a decoder's list of so many layers."""
    stacks = (m for m in decoder.modules() if isinstance(m, nn.ModuleList) and len(m) == layers)
    return next(stacks)


def use_plain_parameters(module: nn.Module, device: torch.device) -> None:
    """Replaces 4-bit layers inside a frozen module; all but parameters goes to the device."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Linear4bit):
                quantized: Any = child.weight
                quantized.quant_state.to(device)
                setattr(parent, name, Nf4Linear(child))
