"""Decoder layers computed whole, against transformers, peft and bitsandbytes computing them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from torch.autograd.graph import saved_tensors_hooks

from llmcausal.config import LoraSection
from llmcausal.data.prefix_tree import attention_blocks, pack
from llmcausal.model import cpu_layers
from llmcausal.model.cpu_layers import whole_layers
from llmcausal.model.lora import add_lora
from llmcausal.model.tree_attention import TREE_ATTENTION, TreeBlocks

Gradients = dict[str, torch.Tensor]
IDS = torch.arange(24)[None] % 200


def quantized(model: Any, dtype: torch.dtype) -> Any:
    """Replaces the decoder's linear layers by NF4 ones."""
    for module in list(model.model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is torch.nn.Linear:
                layer = Linear4bit(
                    child.in_features,
                    child.out_features,
                    bias=child.bias is not None,
                    compute_dtype=dtype,
                    quant_type="nf4",
                )
                layer.load_state_dict(child.state_dict())
                layer.support_avx512bf16_for_cpu = False  # as the program loads them
                setattr(module, name, layer.to("cpu").requires_grad_(False))
    return model


def adapted(base: Any, dtype: torch.dtype = torch.float32, **lora: Any) -> PeftModel:
    """Puts adapters on a model that change what it says."""
    model = add_lora(base, LoraSection(rank=4, **lora), seed=1, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3, generator=generator)
    return model


@pytest.fixture(params=["nf4", "none"])
def model(request: pytest.FixtureRequest, tiny_llama: Callable[..., Any]) -> PeftModel:
    base = tiny_llama(attention_bias=True)
    if request.param == "nf4":
        base = quantized(base, torch.float32)
    return adapted(base)


def weighed(states: torch.Tensor) -> torch.Tensor:
    """A scalar whose gradient does not vanish after a norm."""
    generator = torch.Generator().manual_seed(7)
    return (states * torch.randn(states.shape, generator=generator)).mean()


def gradients(model: PeftModel, ids: torch.Tensor = IDS) -> tuple[torch.Tensor, Gradients]:
    model.train()
    model.zero_grad()
    half = model.get_input_embeddings().weight.dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        logits = model(input_ids=ids, use_cache=False).logits
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    weighed(wide).backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return logits.detach(), found


def assert_near(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Equal but for the rounding of fp32 sums."""
    scale = wanted.abs().max().item()
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-5 * scale)


def apart(found: Gradients, wanted: Gradients) -> float:
    """Distance of all gradients, relative to their norm."""
    differences = sum((found[n].double() - g.double()).square().sum() for n, g in wanted.items())
    return float((differences / sum(g.double().square().sum() for g in wanted.values())).sqrt())


def test_the_same_logits_and_gradients(model: PeftModel) -> None:
    wanted_logits, wanted = gradients(model)
    with whole_layers(model) as layers:
        logits, found = gradients(model)
        again_logits, again = gradients(model)
    assert layers == 2
    assert_near(logits, wanted_logits)
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        assert_near(gradient, wanted[name])
        assert torch.equal(gradient, again[name]), "equal runs must give equal bits"
    assert torch.equal(logits, again_logits)


def test_fp64_is_exact_but_for_the_norms_of_transformers(tiny_llama: Callable[..., Any]) -> None:
    model = adapted(tiny_llama().double(), torch.float64)
    wanted_logits, wanted = gradients(model)
    with whole_layers(model) as layers:
        logits, found = gradients(model)
    assert layers == 2
    torch.testing.assert_close(logits, wanted_logits, rtol=1e-5, atol=1e-5)
    assert apart(found, wanted) < 1e-5


@pytest.mark.parametrize("seed", range(3))
def test_bf16_rounds_no_more_than_plain_bf16(tiny_llama: Callable[..., Any], seed: int) -> None:
    settings = {"hidden_size": 64, "num_attention_heads": 4, "initializer_range": 0.1}
    rounded = tiny_llama(seed=seed, **settings).to(torch.bfloat16)
    half = adapted(rounded)
    for name, parameter in half.named_parameters():
        if "lora_B" in name:
            parameter.data.mul_(0.1)  # as after some training; larger ones amplify all rounding
    exact = copy.deepcopy(half).double()
    _, wanted = gradients(exact)
    _, plain = gradients(half)
    with whole_layers(half) as layers:
        _, found = gradients(half)
    assert layers == 2
    assert all(gradient.dtype == torch.float32 for gradient in found.values())
    assert apart(found, wanted) < 1.3 * apart(plain, wanted) < 0.1


def test_a_tree_gives_what_masked_blocks_give(tiny_llama: Callable[..., Any]) -> None:
    base = tiny_llama()
    base.config._attn_implementation = TREE_ATTENTION
    model = adapted(base)
    tree = pack([[1, 2, 3, 4, 5], [1, 2, 3, 9], [1, 2, 8, 8, 8, 8], [7, 7]])
    ends = torch.tensor(tree.subtree_ends)
    tokens, positions = torch.tensor(tree.tokens)[None], torch.tensor(tree.depths)[None]

    def states() -> tuple[torch.Tensor, Gradients]:
        model.train()
        model.zero_grad()
        blocks = TreeBlocks(attention_blocks(tree.subtree_ends), ends)
        last = model.get_base_model().model(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=torch.zeros(1, 1, 1, 1),
            tree_blocks=blocks,
            use_cache=False,
        ).last_hidden_state  # fmt: skip
        weighed(last).backward()
        return last.detach(), {
            n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
        }

    wanted_last, wanted = states()
    with whole_layers(model):
        last, found = states()
    assert last.shape == wanted_last.shape, "padding is taken off"
    assert_near(last, wanted_last)
    for name, gradient in found.items():
        assert_near(gradient, wanted[name])


def test_hidden_states_that_are_asked_for_have_no_padding(model: PeftModel) -> None:
    asked = {"input_ids": IDS, "use_cache": False, "output_hidden_states": True}
    with torch.no_grad():
        wanted = model(**asked).hidden_states
        with whole_layers(model):
            found = model(**asked).hidden_states
    for one, other in zip(found, wanted, strict=True):
        assert_near(one, other)


def test_a_checkpointed_layer_gives_the_same_bits(model: PeftModel) -> None:
    with whole_layers(model):
        _, wanted = gradients(model)
        base = model.get_base_model()
        base.activation_checkpointing_enable({"use_reentrant": False})
        _, found = gradients(model)
        base.activation_checkpointing_disable()
    assert all(torch.equal(found[name], gradient) for name, gradient in wanted.items())


def test_one_token_after_another_gives_the_logits_of_the_whole(model: PeftModel) -> None:
    from transformers import DynamicCache

    model.eval()
    with torch.no_grad():
        wanted = model(input_ids=IDS, use_cache=False).logits
        with whole_layers(model):
            cache = DynamicCache()
            first = model(input_ids=IDS[:, :64], past_key_values=cache, use_cache=True).logits
            assert_near(first, wanted)
            batch = IDS.repeat(3, 1)
            cache = DynamicCache()
            plain = model(input_ids=batch[:, :5], past_key_values=cache, use_cache=True).logits
            assert_near(plain, wanted[:, :5].repeat(3, 1, 1))
            for place in range(5, 12):
                found = model(
                    input_ids=batch[:, place : place + 1],
                    past_key_values=cache,
                    position_ids=torch.full((3, 1), place),
                    use_cache=True,
                ).logits
                assert_near(found[:, 0], wanted[:, place].repeat(3, 1))


def test_what_a_layer_keeps_is_in_the_compute_dtype(tiny_llama: Callable[..., Any]) -> None:
    half = adapted(tiny_llama().to(torch.bfloat16))
    wide: list[tuple[int, ...]] = []

    def packed(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dtype == torch.float32 and tensor.dim() > 1 and tensor.shape[-1] > 1:
            wide.append(tuple(tensor.shape))
        return tensor

    decoder = half.get_base_model().model
    with whole_layers(half), saved_tensors_hooks(packed, lambda tensor: tensor):
        decoder.norm = torch.nn.Identity()
        decoder(input_ids=IDS, use_cache=False)
    assert wide == []


def own_forwards(model: PeftModel) -> set[str]:
    return {name for name, module in model.named_modules() if "forward" in vars(module)}


def test_everything_is_restored(model: PeftModel) -> None:
    before = own_forwards(model)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    wanted, _ = gradients(model)
    with whole_layers(model):
        assert len(own_forwards(model) - before) == 2
        with whole_layers(model) as inner:
            assert inner == 0, "the outer context is open already"
    assert own_forwards(model) == before
    with pytest.raises(KeyboardInterrupt), whole_layers(model):
        raise KeyboardInterrupt
    assert own_forwards(model) == before
    assert torch.equal(gradients(model)[0], wanted)
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name])
    linears = [m for m in model.modules() if type(m) is torch.nn.Linear]
    storages = {each.weight.untyped_storage().data_ptr() for each in linears}
    assert len(storages) == len(linears), "each weight has a storage of its own again"


def test_without_gradients_quantized_weights_are_packed_and_held_once(model: PeftModel) -> None:
    with torch.no_grad():
        wanted = model(input_ids=IDS, use_cache=False).logits
    quantized = any(isinstance(module, Linear4bit) for module in model.modules())
    with whole_layers(model, gradients=False) as layers:
        parts = model.get_base_model().model.layers[0].forward.__self__.linears
        for part in parts:
            assert (part.packed is not None) == quantized
            assert (part.weight.numel() == 0) == quantized
        with torch.no_grad():
            found = model(input_ids=IDS, use_cache=False).logits
    assert layers == 2
    assert_near(found, wanted)


def test_packed_weights_leave_gradients_to_the_modules(model: PeftModel) -> None:
    _, wanted = gradients(model)
    with whole_layers(model, gradients=False):
        _, found = gradients(model)
    for name, gradient in found.items():
        assert_near(gradient, wanted[name])


def test_weights_that_are_not_quantized_are_held_once(tiny_llama: Callable[..., Any]) -> None:
    model = adapted(tiny_llama())
    with whole_layers(model):
        attention = model.get_base_model().model.layers[0].self_attn
        parts = [getattr(attention, f"{name}_proj").base_layer.weight for name in "qkv"]
        assert len({part.untyped_storage().data_ptr() for part in parts}) == 1


def test_adapters_that_are_off_or_several(model: PeftModel) -> None:
    model.add_adapter("second", model.peft_config["default"])
    for name, parameter in model.named_parameters():
        if "second" in name:
            parameter.data.normal_(std=0.3, generator=torch.Generator().manual_seed(4))

    def logits() -> list[torch.Tensor]:
        found = []
        with torch.no_grad():
            with model.disable_adapter():
                found.append(model(input_ids=IDS, use_cache=False).logits)
            for active in (["default"], ["second"], ["default", "second"]):
                model.base_model.set_adapter(active)
                found.append(model(input_ids=IDS, use_cache=False).logits)
        return found

    wanted = logits()
    with whole_layers(model):
        found = logits()
    for one, other in zip(found, wanted, strict=True):
        assert_near(one, other)
    assert not torch.allclose(found[1], found[0])
    assert not torch.allclose(found[1], found[2])


def test_weights_that_change_meanwhile_are_seen(model: PeftModel) -> None:
    with whole_layers(model):
        before, _ = gradients(model)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.mul_(2)
        after, _ = gradients(model)
    assert_near(after, gradients(model)[0])
    assert not torch.allclose(before, after)


def test_dropout_is_left_to_peft(tiny_llama: Callable[..., Any]) -> None:
    model = adapted(tiny_llama(), dropout=0.5)
    torch.manual_seed(3)
    wanted, _ = gradients(model)
    before = torch.get_rng_state()
    with whole_layers(model):
        assert torch.equal(torch.get_rng_state(), before), "else a resumed run would be another"
        torch.manual_seed(3)
        found, _ = gradients(model)
    assert torch.equal(found, wanted)


def test_a_layer_that_does_more_than_llamas_is_left_alone(
    model: PeftModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.llama.modeling_llama import LlamaMLP

    plain = LlamaMLP.forward
    monkeypatch.setattr(LlamaMLP, "forward", lambda self, x: 1.5 * plain(self, x))
    wanted, _ = gradients(model)
    with whole_layers(model) as layers:
        assert layers == 0
        found, _ = gradients(model)
    assert torch.equal(found, wanted)


def test_trained_layers_and_other_models_are_left_alone(tiny_llama: Callable[..., Any]) -> None:
    with whole_layers(tiny_llama().requires_grad_(True)) as layers:
        assert layers == 0
    with whole_layers(torch.nn.Linear(2, 2)) as layers:
        assert layers == 0


def test_too_little_memory_leaves_the_weights_packed(
    model: PeftModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that are not quantized take no memory."""
    four_bit = any(isinstance(module, Linear4bit) for module in model.modules())
    monkeypatch.setattr(cpu_layers, "MEMORY_SHARE", 0.0)
    with whole_layers(model) as layers:
        assert layers == (0 if four_bit else 2)
    assert ("free memory" in caplog.text) == four_bit
