"""Products from unpacked weights against bitsandbytes' and torch's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import PeftModel

from llmcausal.config import LoraSection
from llmcausal.model import unpacked
from llmcausal.model.lora import add_lora
from llmcausal.model.token_chunks import _ChunkedForward, chunk_tokens
from llmcausal.model.unpacked import unpacked_frozen_weights


def quantized(model: Any) -> Any:
    """Replaces the decoder's linear layers by NF4 ones."""
    for module in list(model.model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is torch.nn.Linear:
                layer = Linear4bit(
                    child.in_features,
                    child.out_features,
                    bias=child.bias is not None,
                    compute_dtype=torch.float32,
                    quant_type="nf4",
                )
                layer.load_state_dict(child.state_dict())
                setattr(module, name, layer.to("cpu").requires_grad_(False))
    return model


@pytest.fixture(params=["nf4", "none"])
def model(request: pytest.FixtureRequest, tiny_llama: Callable[..., Any]) -> PeftModel:
    base = tiny_llama(attention_bias=True)
    if request.param == "nf4":
        base = quantized(base)
    peft_model = add_lora(base, LoraSection(rank=4), seed=1)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in peft_model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3, generator=generator)
    return peft_model


def gradients(model: PeftModel) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.train()
    model.zero_grad()
    ids = torch.arange(24)[None] % 200
    logits = model(input_ids=ids).logits
    logits.square().mean().backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return logits.detach(), found


def assert_near(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Equal but for the rounding of fp32 sums."""
    scale = wanted.abs().max().item()
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * scale)


def test_the_same_logits_and_gradients(model: PeftModel) -> None:
    wanted_logits, wanted = gradients(model)
    with unpacked_frozen_weights(model) as layers:
        logits, found = gradients(model)
        again_logits, again = gradients(model)
    assert layers == 2 * 7
    assert_near(logits, wanted_logits)
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        assert_near(gradient, wanted[name])
        assert torch.equal(gradient, again[name]), "equal runs must give equal bits"
    assert torch.equal(logits, again_logits)


def own_forwards(model: PeftModel) -> set[str]:
    return {name for name, module in model.named_modules() if "forward" in vars(module)}


def test_everything_is_restored(model: PeftModel) -> None:
    before = own_forwards(model)
    wanted, _ = gradients(model)
    with unpacked_frozen_weights(model):
        assert len(own_forwards(model) - before) == 2 * (7 + 7 + 1)  # base and LoRA layers, MLPs
    assert own_forwards(model) == before
    with pytest.raises(KeyboardInterrupt), unpacked_frozen_weights(model):
        raise KeyboardInterrupt
    assert own_forwards(model) == before
    assert torch.equal(gradients(model)[0], wanted)


@pytest.mark.parametrize(("before", "meanwhile"), [(0, 5), (5, 0), (5, 9), (9, 9)])
def test_mlps_go_on_in_chunks_when_the_length_changes(
    model: PeftModel, before: int, meanwhile: int
) -> None:
    """A fallback changes the length while weights are unpacked."""
    wanted_logits, wanted = gradients(model)
    chunk_tokens(model, before)
    with unpacked_frozen_weights(model):
        chunk_tokens(model, meanwhile)
        logits, found = gradients(model)
    assert any(isinstance(m.forward, _ChunkedForward) for m in model.modules()) == bool(meanwhile)
    chunk_tokens(model, 0)
    assert_near(logits, wanted_logits)
    for name, gradient in found.items():
        assert_near(gradient, wanted[name])
    assert torch.equal(gradients(model)[0], wanted_logits), "the plain modules are back"


def test_adapters_that_are_off_or_several_are_computed_as_peft_does(model: PeftModel) -> None:
    model.add_adapter("second", model.peft_config["default"])
    for name, parameter in model.named_parameters():
        if "second" in name:
            parameter.data.normal_(std=0.3, generator=torch.Generator().manual_seed(4))
    ids = torch.arange(24)[None] % 200

    def logits() -> list[torch.Tensor]:
        found = []
        with torch.no_grad():
            with model.disable_adapter():
                found.append(model(input_ids=ids).logits)
            for active in (["default"], ["second"], ["default", "second"]):
                model.base_model.set_adapter(active)
                found.append(model(input_ids=ids).logits)
        return found

    wanted = logits()
    with unpacked_frozen_weights(model):
        found = logits()
    for one, other in zip(found, wanted, strict=True):
        assert_near(one, other)
    assert not torch.allclose(found[1], found[0])
    assert not torch.allclose(found[1], found[2])


def test_dropout_is_left_to_peft(tiny_llama: Callable[..., Any]) -> None:
    model = add_lora(tiny_llama(), LoraSection(rank=4, dropout=0.5), seed=1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3, generator=torch.Generator().manual_seed(4))
    torch.manual_seed(3)
    wanted, _ = gradients(model)
    with unpacked_frozen_weights(model):
        torch.manual_seed(3)
        found, _ = gradients(model)
    assert_near(found, wanted)


def test_no_random_number_is_drawn(tiny_llama: Callable[..., Any]) -> None:
    """Else a resumed run would not be the uninterrupted one."""
    model = add_lora(tiny_llama(), LoraSection(rank=4, dropout=0.5), seed=1).train()
    before = torch.get_rng_state()
    with unpacked_frozen_weights(model):
        assert torch.equal(torch.get_rng_state(), before)


def test_an_mlp_that_does_more_than_llamas_is_left_alone(
    model: PeftModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.llama.modeling_llama import LlamaMLP

    plain = LlamaMLP.forward
    monkeypatch.setattr(LlamaMLP, "forward", lambda self, x: 1.5 * plain(self, x))
    wanted, _ = gradients(model)
    with unpacked_frozen_weights(model):
        assert not any(name.endswith("mlp") for name in own_forwards(model))
        found, _ = gradients(model)
    assert_near(found, wanted)


def test_trained_and_other_dtypes_are_left_alone(tiny_llama: Callable[..., Any]) -> None:
    model = tiny_llama()
    with unpacked_frozen_weights(model.double()) as layers:
        assert layers == 0
    with unpacked_frozen_weights(model.float().requires_grad_(True)) as layers:
        assert layers == 0


def test_too_little_memory_leaves_the_weights_packed(
    model: PeftModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that are not quantized take no memory."""
    four_bit = any(isinstance(module, Linear4bit) for module in model.modules())
    monkeypatch.setattr(unpacked, "MEMORY_SHARE", 0.0)
    with unpacked_frozen_weights(model) as layers:
        assert layers == (0 if four_bit else 2 * 7)
    assert ("free memory" in caplog.text) == four_bit
