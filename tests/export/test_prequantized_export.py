"""Exports of an adapter whose base is stored in 4 bits."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from llmcausal.config import ModelSection
from llmcausal.data.template import ChatTemplate
from llmcausal.errors import DoesNotFitError, ModelError
from llmcausal.export.merged import merge
from llmcausal.export.source import STATE, ExportSource, StoredNf4, weights_of
from llmcausal.model.factory import load_model
from tests.tiny import save_in_nf4

IDS = torch.tensor([[5, 9, 200, 31, 77, 12]])


@pytest.fixture(autouse=True)
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmcausal.export.check.NEW_TOKENS", 4)


@pytest.fixture
def nf4_dir(tmp_path: Path, tiny_llama: Callable[..., Any], chatml_tokenizer: Any) -> Path:
    """A base in 4 bits, in files so small that a weight and its scales are in different ones."""
    original = tmp_path / "original"
    tiny_llama(hidden_size=64, intermediate_size=192).save_pretrained(original)
    chatml_tokenizer.save_pretrained(original)
    return save_in_nf4(original, tmp_path / "nf4", dtype=torch.float32, max_shard_size="9KB")


@pytest.fixture
def section(nf4_dir: Path) -> ModelSection:
    return ModelSection(name=str(nf4_dir), device="cpu", precision="fp32")


@pytest.fixture
def nf4_source(tmp_path: Path, section: ModelSection, chatml_tokenizer: Any) -> ExportSource:
    from llmcausal.config import LoraSection
    from llmcausal.model.lora import add_lora

    lora = LoraSection(rank=4, target_modules=("q_proj", "down_proj"))
    model = add_lora(load_model(section).model, lora, seed=1)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3, generator=generator)
    model.save_pretrained(tmp_path / "checkpoint")
    return ExportSource(
        tmp_path / "checkpoint",
        lambda: load_model(section).model,
        ChatTemplate(chatml_tokenizer),
        section.name,
        torch.float32,
    )


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model.eval()(input_ids=IDS).logits
    return result


@pytest.mark.parametrize("double", [True, False])
def test_weights_read_as_bitsandbytes_dequantizes_them(
    tmp_path: Path, tiny_llama: Callable[..., Any], chatml_tokenizer: Any, double: bool
) -> None:
    original = tmp_path / "original"
    tiny_llama(hidden_size=64, intermediate_size=192).save_pretrained(original)
    chatml_tokenizer.save_pretrained(original)
    folder = save_in_nf4(original, tmp_path / "nf4", dtype=torch.float32, double=double)
    settings = ModelSection(
        name=str(folder), device="cpu", precision="fp32", double_quantization=double
    )
    modules = dict(load_model(settings).model.named_modules())
    packed = packed_weights(folder)
    assert len(packed) == 14
    for each in packed:
        module: Any = modules[each.name.removesuffix(".weight")]
        assert isinstance(module, Linear4bit)
        wanted = dequantize_4bit(module.weight.data, module.weight.quant_state)
        assert each.shape == tuple(wanted.shape)
        assert torch.equal(each.read(), wanted)


def packed_weights(folder: Path) -> list[StoredNf4]:
    weights = (each for tensors in weights_of(folder).values() for each in tensors)
    return [each for each in weights if isinstance(each, StoredNf4)]


@pytest.mark.parametrize("double", [True, False])
def test_weights_that_do_not_fill_their_last_block_are_near_the_original(
    tmp_path: Path, tiny_llama: Callable[..., Any], chatml_tokenizer: Any, double: bool
) -> None:
    """bitsandbytes 0.50 is no reference: on CPUs with AVX512 it misreads rows of such widths."""
    model = tiny_llama(hidden_size=40, intermediate_size=33)
    model.save_pretrained(tmp_path / "original")
    chatml_tokenizer.save_pretrained(tmp_path / "original")
    folder = save_in_nf4(
        tmp_path / "original", tmp_path / "nf4", dtype=torch.float32, double=double
    )
    for each in packed_weights(folder):
        wanted = model.get_parameter(each.name)
        # Half of the widest gap between codes, and the rounding of the scales.
        assert (each.read() - wanted).abs().max() < 0.17 * wanted.abs().max()


def test_an_adapter_names_the_base_in_4_bits(
    nf4_source: ExportSource, export: Callable[..., Any], nf4_dir: Path, tmp_path: Path
) -> None:
    report = export("adapter", nf4_source, tmp_path / "out")
    assert report["max_abs_logit_difference"] == 0
    assert report["same_answers"]
    assert "base_weights" not in report
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == str(nf4_dir.resolve())
    # As its users load it: the stored compute dtype, bf16, rounds the products.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        base = AutoModelForCausalLM.from_pretrained(nf4_dir)
        plainly = logits_of(PeftModel.from_pretrained(base, tmp_path / "out"))
    wanted = logits_of(nf4_source.load())
    together = torch.stack([plainly.flatten().double(), wanted.flatten().double()])
    assert torch.corrcoef(together)[0, 1] > 0.999


def test_merged_weights_are_the_dequantized_ones_with_the_update(
    nf4_source: ExportSource, export: Callable[..., Any], tmp_path: Path
) -> None:
    report = export("merged", nf4_source, tmp_path / "out")
    assert report["base_weights"] == "dequantized from NF4"
    assert report["max_abs_logit_difference"] <= report["tolerance"] < 0.01
    out = tmp_path / "out"
    assert "quantization_config" not in (out / "config.json").read_text(encoding="utf-8")
    model = AutoModelForCausalLM.from_pretrained(out)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    torch.testing.assert_close(logits_of(model), logits_of(nf4_source.load()), atol=1e-3, rtol=1e-4)
    assert "not its 16-bit original" in (out / "README.md").read_text(encoding="utf-8")


def test_the_comparison_of_an_adapter_needs_memory_for_packed_weights_only(
    nf4_source: ExportSource,
    export: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from llmcausal.memory.measure import held_bytes

    held = held_bytes([nf4_source.load_base()])
    free = SimpleNamespace(available=2**29 + round(1.1 * held))
    monkeypatch.setattr("psutil.virtual_memory", lambda: free)
    assert export("adapter", nf4_source, tmp_path / "adapter")["checked"]
    with pytest.raises(DoesNotFitError):
        export("merged", nf4_source, tmp_path / "merged")
    free.available = 2**29 + round(0.9 * held)
    with pytest.raises(DoesNotFitError):
        export("adapter", nf4_source, tmp_path / "again")


def break_shape(tensors: dict[str, Any], name: str) -> None:
    state = json.loads(bytes(tensors[f"{name}.{STATE}"].numpy()))
    state["shape"] = [64, 2**40]
    tensors[f"{name}.{STATE}"] = as_bytes(json.dumps(state))


def break_text(tensors: dict[str, Any], name: str) -> None:
    tensors[f"{name}.{STATE}"] = as_bytes("[1")


def break_block_size(tensors: dict[str, Any], name: str) -> None:
    state = json.loads(bytes(tensors[f"{name}.{STATE}"].numpy()))
    state["blocksize"] = 0
    tensors[f"{name}.{STATE}"] = as_bytes(json.dumps(state))


def break_scales(tensors: dict[str, Any], name: str) -> None:
    tensors[f"{name}.absmax"] = tensors[f"{name}.absmax"][:-1].clone()


def break_outer_scales(tensors: dict[str, Any], name: str) -> None:
    tensors[f"{name}.nested_absmax"] = tensors[f"{name}.nested_absmax"][:0].clone()


def leave_out_the_table(tensors: dict[str, Any], name: str) -> None:
    del tensors[f"{name}.quant_map"]


def leave_out_the_state(tensors: dict[str, Any], name: str) -> None:
    del tensors[f"{name}.{STATE}"]


def leave_out_all_but_the_codes(tensors: dict[str, Any], name: str) -> None:
    for each in [each for each in tensors if each.startswith(f"{name}.")]:
        del tensors[each]


def as_bytes(text: str) -> torch.Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


@pytest.mark.parametrize(
    "damage",
    [
        break_shape,
        break_text,
        break_block_size,
        break_scales,
        break_outer_scales,
        leave_out_the_table,
        leave_out_the_state,
        leave_out_all_but_the_codes,
    ],
)
def test_damaged_weights_are_named(
    damage: Callable[[dict[str, Any], str], None],
    nf4_source: ExportSource,
    nf4_dir: Path,
    tmp_path: Path,
) -> None:
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(nf4_dir.glob("*.safetensors")):
        tensors |= load_file(file)
        file.unlink()
    (nf4_dir / "model.safetensors.index.json").unlink()
    name = "model.layers.0.self_attn.q_proj.weight"
    damage(tensors, name)
    save_file(tensors, nf4_dir / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match=rf"model\.safetensors: {name}\S*: its .*16-bit weights"):
        merge(replace(nf4_source), tmp_path / "out")
