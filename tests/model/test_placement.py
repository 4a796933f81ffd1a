"""Embeddings and head in host memory: the same numbers, and nothing of them on the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llmcausal.config import MemorySection, ModelSection
from llmcausal.model import factory
from llmcausal.model.placement import (
    HostHead,
    compute_device,
    empty_on_host,
    hold_weights,
    streamed_product,
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
