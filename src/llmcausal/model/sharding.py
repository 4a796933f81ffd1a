"""Frozen decoder layers of which each process holds a share: gathered one by one, by FSDP2."""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes import matmul_4bit
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from torch import Tensor, nn

from llmcausal.config import MemorySection
from llmcausal.model.host_weights import weights_on_host
from llmcausal.model.trunk import layer_stack


class Nf4Linear(nn.Module):
    """A frozen 4-bit linear layer whose weight and scales are plain parameters.

    Of bitsandbytes' own parameter nothing but the bytes survives when FSDP2 puts shares in its
    place: its layer would lose the scales.

    Args:
        layer: A quantized layer, whose tensors it takes away.
    """

    def __init__(self, layer: Linear4bit) -> None:
        super().__init__()
        quantized: Any = layer.weight
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.compute_dtype = layer.compute_dtype
        self.quant_state = quantized.quant_state
        self.weight = nn.Parameter(quantized.data, requires_grad=False)
        self.absmax = nn.Parameter(self.quant_state.absmax, requires_grad=False)
        self.quant_state.absmax = None  # the share is to be all that is held
        self.bias = layer.bias
        del layer.weight  # which knows its layer, so that they would keep each other alive

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns x @ W.T + b for inputs [..., in_features], in their dtype."""
        dtype = self.compute_dtype or inputs.dtype
        # FSDP2 gathers into the same storage each time, so what the backward pass finds here,
        # and what the product keeps of the weight, is there again when the layer is.
        self.quant_state.absmax = self.absmax
        bias = None if self.bias is None else self.bias.to(dtype)
        product: Tensor = matmul_4bit(
            inputs.to(dtype), self.weight, bias=bias, quant_state=self.quant_state
        )
        return product.to(inputs.dtype)


def shard_layers(model: PeftModel, memory: MemorySection, device: torch.device) -> None:
    """Leaves each process its share of the frozen layers, and puts all else on the device.

    From here on every forward and backward pass is one of all processes. The device holds the
    shares and at most two whole layers beside them, now as well as in a pass. Adapters,
    embeddings, final norm and head are whole on each process; no gradient is exchanged.

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
    layers = layer_stack(decoder, base.config.get_text_config().num_hidden_layers)
    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    for layer in layers:
        use_plain_parameters(layer, device)
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=trained)
    whole = {each for each in decoder.parameters() if type(each) is nn.Parameter}
    fully_shard(decoder, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
    _move_the_rest(base, memory, device)


def use_plain_parameters(module: nn.Module, device: torch.device) -> None:
    """Puts an `Nf4Linear` in the place of every 4-bit layer inside a module.

    Args:
        module: Of a frozen model.
        device: Where to compute; what is no parameter goes there.
    """
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Linear4bit):
                quantized: Any = child.weight
                quantized.quant_state.to(device)
                setattr(parent, name, Nf4Linear(child))


def _move_the_rest(base: Any, memory: MemorySection, device: torch.device) -> None:
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    on_host = weights_on_host(memory, tied=head.weight is embedding.weight)
    parts = {"embeddings": embedding, "head": head}
    staying = {id(each) for part in on_host for each in parts[part].parameters()}
    for tensor in (*base.parameters(), *base.buffers()):
        if type(tensor) in (nn.Parameter, Tensor) and id(tensor) not in staying:
            tensor.data = tensor.data.to(device)
