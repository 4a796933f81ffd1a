"""Embeddings and head in host memory: the same numbers, and nothing of them on the device."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from bitsandbytes.nn import Linear4bit
from torch import Tensor, nn

from llmcausal.config import LoraSection, MemorySection, ModelSection
from llmcausal.model import factory
from llmcausal.model.activations import set_activations
from llmcausal.model.cpu_layers import is_frozen
from llmcausal.model.lora import add_lora
from llmcausal.model.placement import (
    HostHead,
    Nf4Linear,
    compute_device,
    empty_on_host,
    hold_weights,
    shard_layers,
    streamed_product,
    use_plain_parameters,
)

META, CPU = torch.device("meta"), torch.device("cpu")
HOST = MemorySection(embeddings="host", head="host", vocabulary_chunk=50)


@pytest.mark.parametrize("tied", [False, True])
def test_logits_and_their_gradient_are_the_same(tied: bool, tiny_llama: Any) -> None:
    found = []
    for memory in (MemorySection(), HOST):
        model = tiny_llama(tie_word_embeddings=tied)
        hold_weights(model, memory, CPU)
        hidden = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(1))
        hidden.requires_grad_()
        logits = model.get_output_embeddings()(hidden)
        (logits * logits.detach().cos()).sum().backward()
        found.append((model(input_ids=torch.arange(9)[None]).logits, logits, hidden.grad))
    for plain, streamed in zip(*found, strict=True):
        torch.testing.assert_close(streamed, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("hidden_dtype", [torch.bfloat16, torch.float32])
def test_the_gradient_is_summed_in_fp32(hidden_dtype: torch.dtype) -> None:
    """A bf16 head, with fp32 hidden states under autocast: hardly further off than one product."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6000, 64, generator=generator).bfloat16()
    hidden = torch.randn(8, 64, generator=generator).to(hidden_dtype).requires_grad_()
    upstream = torch.rand(8, 6000, generator=generator).bfloat16()
    truth = upstream.double() @ weight.double()
    with torch.autocast("cpu", torch.bfloat16):
        plain = torch.nn.functional.linear(hidden, weight)
        streamed = streamed_product(hidden, weight, None, 50)
    errors = [
        (torch.autograd.grad(z, hidden, upstream.to(z.dtype))[0].double() - truth).norm()
        for z in (plain, streamed)
    ]
    assert torch.equal(streamed, plain.to(hidden_dtype))
    assert errors[1] < 2 * errors[0]


def test_the_model_generates_and_is_saved_as_ever(tiny_llama: Any, tmp_path: Path) -> None:
    plain, held = tiny_llama(), tiny_llama()
    hold_weights(held, HOST, CPU)
    prompt = torch.arange(5, 15)[None]
    settings: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}
    assert torch.equal(held.generate(prompt, **settings), plain.generate(prompt, **settings))
    held.save_pretrained(tmp_path)
    loaded = type(plain).from_pretrained(tmp_path).state_dict()
    for name, tensor in plain.state_dict().items():
        assert torch.equal(loaded[name], tensor), name


def test_holding_twice_changes_nothing(tiny_llama: Any) -> None:
    model = tiny_llama(tie_word_embeddings=False)
    for _ in range(2):
        hold_weights(model, HOST, CPU)
    assert len(model.get_input_embeddings()._forward_hooks) == 1
    assert isinstance(model.get_output_embeddings(), HostHead)
    wanted = tiny_llama(tie_word_embeddings=False)(input_ids=torch.arange(9)[None]).logits
    found = model(input_ids=torch.arange(9)[None]).logits
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_the_device_holds_the_layers_alone(
    tied: bool, tiny_llama: Any, chatml_tokenizer: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    """The meta device stands for one with no room: nothing can be read back from it."""
    tiny_llama(tie_word_embeddings=tied).save_pretrained(tmp_path)
    chatml_tokenizer.save_pretrained(tmp_path)
    monkeypatch.setattr(factory, "choose_device", lambda _name: META)
    section = ModelSection(name=str(tmp_path), quantization="none", precision="fp32")
    model: Any = factory.load_model(section, HOST).model
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert compute_device(model) == META
    assert {p.device for p in model.get_decoder().layers.parameters()} == {META}
    saved = tiny_llama(tie_word_embeddings=tied)
    assert torch.equal(embedding.weight, saved.get_input_embeddings().weight)
    assert torch.equal(head.weight, saved.get_output_embeddings().weight)
    assert (head.weight is embedding.weight) == tied
    rows = embedding(torch.arange(4, device=CPU))
    assert rows.device == META
    assert head(rows).shape == (4, len(head.weight))


@pytest.mark.parametrize("part", ["embeddings", "head"])
def test_a_tied_tensor_stays_while_either_use_wants_the_device(part: Any, tiny_llama: Any) -> None:
    model = tiny_llama(tie_word_embeddings=True).to(META)
    model.tie_weights()
    hold_weights(model, MemorySection.model_validate({part: "host"}), META)
    assert model.get_input_embeddings().weight.device == META


def test_memory_that_cannot_be_pinned_is_plain(caplog: Any) -> None:
    if torch.cuda.is_available():
        pytest.skip("pinning works here")
    like = torch.zeros(3, 4, dtype=torch.bfloat16)
    for _ in range(2):
        room = empty_on_host(like, torch.device("cuda"))
        assert (room.shape, room.dtype, room.device) == (like.shape, like.dtype, CPU)
    assert len([r for r in caplog.records if "cannot be pinned" in r.message]) <= 1


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
