"""Fused adapters, MLPs and norms: peft's and transformers' numbers with fewer passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit, Params4bit
from peft.helpers import rescale_adapter_scale
from torch import Tensor, nn

from llmcausal.config import LoraSection
from llmcausal.model.activations import set_activations
from llmcausal.model.fused import _FusedLora, _FusedMlp, _FusedNorm, fuse
from llmcausal.model.lora import add_lora
from llmcausal.model.token_chunks import chunk_tokens
from tests.model.test_token_chunks import assert_same, make_model, run

CPU = torch.device("cpu")


@pytest.mark.parametrize("activations", ["keep", "recompute", "offload"])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma2"])
def test_loss_and_gradients_are_those_of_peft(kind: str, activations: Any) -> None:
    model = make_model(kind)
    set_activations(model.get_base_model(), activations, CPU)
    expected = run(model, 11, batch=2)
    fuse(model)
    found = run(model, 11, batch=2)
    assert found.keys() == expected.keys()
    for name, value in expected.items():  # norms compute in fp64 now, not in fp32
        assert (found[name] - value).norm() <= 1e-5 * value.norm(), name


def test_forms_are_recognised_and_others_left_alone() -> None:
    def kinds(model: Any) -> set[str]:
        fuse(model)
        forwards = (vars(module).get("forward") for module in model.modules())
        return {type(each).__name__ for each in forwards if each is not None}

    assert kinds(make_model("llama")) == {"_FusedLora", "_FusedMlp", "_FusedNorm"}
    assert kinds(make_model("gemma2")) == {"_FusedLora"}  # norms of 1 + w, and GELU


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_scaled_and_disabled_adapters(scale: float) -> None:
    model = make_model()
    tokens = torch.arange(9)[None]
    fused = make_model()
    fuse(fused)
    for disabled in (False, True):
        outputs = []
        for each in (model, fused):
            if disabled:
                each.disable_adapter_layers()
            with rescale_adapter_scale(each, scale), torch.no_grad():
                outputs.append(each(tokens).logits)
        torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-6)


def bases_called(model: Any) -> list[str]:
    """Notes each call of the frozen layers inside adapters."""
    calls: list[str] = []
    for name, module in model.named_modules():
        if name.endswith("base_layer"):
            short = name.split(".")[-2]
            module.register_forward_hook(lambda *_, short=short: calls.append(short))
    return calls


def test_the_last_product_of_a_layer_is_computed_once() -> None:
    model = make_model()
    fuse(model)
    calls = bases_called(model)
    run(model, 12)
    assert calls.count("gate_proj") == 2 * 2
    assert calls.count("down_proj") == 2


def test_the_last_product_of_a_chunk_is_computed_again_only_in_the_first() -> None:
    expected = run(make_model(), 12)
    model = make_model()
    fuse(model)
    chunk_tokens(model, 4)
    calls = bases_called(model)
    found = run(model, 12)
    assert calls.count("gate_proj") == 2 * (3 + 3)
    assert calls.count("down_proj") == 2 * (3 + 1)
    for name, value in expected.items():
        assert (found[name] - value).norm() <= 1e-5 * value.norm(), name
    assert_same(run(model, 12), found)  # nothing stays unread


def test_an_mlp_keeps_its_two_inputs_alone() -> None:
    model = make_model(checkpoints=False)
    mlp = model.get_base_model().model.layers[0].mlp
    hidden = torch.randn(1, 9, 16, dtype=torch.float64, requires_grad=True)

    def kept() -> int:
        sizes: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            if tensor.shape[-1:] == (272,) and not isinstance(tensor, nn.Parameter):
                sizes[tensor.untyped_storage().data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            result = mlp(hidden)
        assert result.requires_grad
        return sum(sizes.values()) // (9 * 272)

    assert kept() > 2
    fuse(model)
    assert kept() == 2


@pytest.mark.parametrize("change", ["dropout", "merged", "two", "frozen", "wider"])
def test_what_does_not_fit_keeps_pefts_forward(change: str) -> None:
    model = make_model(dropout=0.3 if change == "dropout" else 0.0)
    fuse(model)
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    plain: list[Any] = []
    inner = layer.forward.plain
    layer.forward.plain = lambda *args, **kwargs: (plain.append(args), inner(*args, **kwargs))[1]
    hidden = torch.randn(2, 16, dtype=torch.float64)
    if change == "merged":
        layer.merge()
    elif change == "two":
        model.add_adapter("other", model.peft_config["default"])
        model.base_model.set_adapter(["default", "other"])
        layer.double()
    elif change == "frozen":
        layer.lora_A["default"].weight.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16, enabled=change == "wider"):
        layer(hidden)
    assert len(plain) == 1


def nf4_layer(width: int = 128, out: int = 192) -> nn.Module:
    """Makes a small model with one adapted NF4 layer and fp32 adapters."""
    torch.manual_seed(0)
    linear = Linear4bit(width, out, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4")
    weight = torch.randn(out, width, dtype=torch.bfloat16) / width**0.5
    linear.weight = Params4bit(weight, requires_grad=False, quant_type="nf4", module=linear)
    return linear.to("cpu")


def test_nf4_in_bf16_is_as_near_to_exact_numbers_as_peft(tiny_llama: Callable[..., Any]) -> None:
    base = tiny_llama(hidden_size=128, intermediate_size=192).to(torch.bfloat16)
    base.model.layers[0].mlp.up_proj = nf4_layer()
    base.is_loaded_in_4bit = True
    model = add_lora(base, LoraSection(rank=8, target_modules=("up_proj",)), 0).train()
    layer: Any = model.get_base_model().model.layers[0].mlp.up_proj
    nn.init.normal_(layer.lora_B["default"].weight, std=0.1)
    inputs = torch.randn(1, 40, 128).bfloat16()
    given = torch.randn(1, 40, 192).bfloat16()
    matrices = layer.lora_A["default"].weight, layer.lora_B["default"].weight

    def results(forward: Callable[[Tensor], Tensor], dtype: torch.dtype) -> list[Tensor]:
        leaf = inputs.to(dtype).requires_grad_()
        output = forward(leaf)
        found = torch.autograd.grad(output, (leaf, *matrices), given.to(output.dtype))
        return [each.double() for each in (output.detach(), *found)]

    def exact(leaf: Tensor) -> Tensor:
        from bitsandbytes.functional import dequantize_4bit

        packed = layer.get_base_layer().weight
        dense = dequantize_4bit(packed.data, packed.quant_state).double()
        down, up = (matrix.double() for matrix in matrices)
        return leaf @ dense.T + layer.scaling["default"] * (leaf @ down.T @ up.T)

    def narrow(leaf: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return layer(leaf)  # type: ignore[no-any-return]

    wanted = results(exact, torch.float64)
    before = results(narrow, torch.bfloat16)
    fuse(model)
    assert isinstance(layer.forward, _FusedLora)
    after = results(narrow, torch.bfloat16)
    for exactly, plain, fused in zip(wanted, before, after, strict=True):
        distance = (fused - exactly).norm() / exactly.norm()
        assert distance <= 1.05 * (plain - exactly).norm() / exactly.norm()
        assert distance < 0.01
    assert {_FusedMlp, _FusedNorm} <= {type(vars(m).get("forward")) for m in model.modules()}
