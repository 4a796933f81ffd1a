"""Layers that processes share compute what whole ones do; what cannot be shared is refused."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed
from bitsandbytes.nn import Linear4bit
from torch import Tensor, nn

from llmcausal.config import LoraSection, MemorySection
from llmcausal.model.activations import set_activations
from llmcausal.model.cpu_layers import is_frozen
from llmcausal.model.lora import add_lora
from llmcausal.model.placement import Nf4Linear, shard_layers, use_plain_parameters

CPU = torch.device("cpu")
TOKENS = torch.arange(3, 15)[None]


@pytest.fixture
def group() -> Iterator[None]:
    """A process group of this process alone."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def quantized(layer: nn.Linear, *, nested: bool, compute: torch.dtype) -> Linear4bit:
    made = Linear4bit(
        layer.in_features,
        layer.out_features,
        bias=layer.bias is not None,
        compute_dtype=compute,
        compress_statistics=nested,
        quant_type="nf4",
    )
    made.load_state_dict(layer.state_dict())
    made.requires_grad_(False)
    made.support_avx512bf16_for_cpu = False
    return made.to(CPU)


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_of_plain_parameters_gives_the_same_bits(
    nested: bool, bias: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    layer = quantized(nn.Linear(128, 192, bias), nested=nested, compute=dtype)
    inputs = torch.randn(5, 128)

    def results() -> tuple[Tensor, Tensor]:
        leaf = inputs.clone().requires_grad_()
        output = holder[0](leaf)
        output.square().sum().backward()
        return output.detach(), leaf.grad

    holder = nn.Sequential(layer)
    before = results()
    packed, quantized_weight = layer.weight.data_ptr(), weakref.ref(layer.weight)
    use_plain_parameters(holder, CPU)
    assert isinstance(holder[0], Nf4Linear)
    assert {type(each) for each in holder.parameters()} == {nn.Parameter}
    assert holder[0].weight.data_ptr() == packed
    assert quantized_weight() is None  # it would hold the whole weight beside the share
    assert not any(each.requires_grad for each in holder.parameters())
    for ours, theirs in zip(results(), before, strict=True):
        assert ours.dtype == theirs.dtype == torch.float32
        assert torch.equal(ours, theirs)


def adapted(make: Callable[..., Any], *, nf4: bool) -> Any:
    model = make(hidden_size=64, intermediate_size=128)
    if nf4:
        for parent in list(model.model.layers.modules()):
            for name, child in parent.named_children():
                if isinstance(child, nn.Linear):
                    made = quantized(child, nested=True, compute=torch.float32)
                    setattr(parent, name, made)
        model.is_loaded_in_4bit = True
    adapted = add_lora(model, LoraSection(rank=4, dropout=0.0), 0)
    with torch.no_grad():
        for number, parameter in enumerate(p for p in adapted.parameters() if p.requires_grad):
            torch.manual_seed(number)
            parameter.normal_(std=0.02)
    return adapted.train()


def gradients(model: Any) -> dict[str, Tensor]:
    model.zero_grad()
    model(input_ids=TOKENS, use_cache=False).logits.square().mean().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("activations", ["keep", "recompute", "offload"])
@pytest.mark.parametrize("nf4", [True, False])
def test_shared_layers_give_the_same_gradients(
    group: None, tiny_llama: Callable[..., Any], activations: Any, nf4: bool
) -> None:
    model = adapted(tiny_llama, nf4=nf4)
    set_activations(model.get_base_model(), activations, CPU)
    before = gradients(model)
    shard_layers(model, MemorySection(), CPU)
    layers = model.get_base_model().get_decoder().layers
    for name, parameter in layers.named_parameters():
        assert (type(parameter) is nn.Parameter) == ("lora" in name), name
    for _ in range(2):
        after = gradients(model)
        assert after.keys() == before.keys()
        for name, gradient in before.items():
            assert torch.equal(after[name], gradient), name
        with torch.inference_mode():  # a probe in between
            model(input_ids=TOKENS, use_cache=False)
    linear = [each for each in layers.modules() if type(each) in (nn.Linear, Nf4Linear)]
    frozen = [each for each in linear if not each.weight.requires_grad]
    assert len(frozen) == 14
    assert not any(map(is_frozen, frozen))  # a dequantized share would be a wrong weight
