"""Checkpoints in 4 bits: the same model as quantizing the original while it loads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from safetensors.torch import load_file, save_file

from llmcausal.config import LoraSection, MemorySection, ModelSection
from llmcausal.errors import ConfigError, ModelError
from llmcausal.model.cpu_layers import whole_layers
from llmcausal.model.factory import load_model
from llmcausal.model.lora import add_lora
from llmcausal.model.prequantized import read_quantization, set_compute_dtype, skips_layers
from tests.tiny import make_llama, make_tokenizer, save_in_nf4

IDS = torch.arange(20, 60)[None]
HEAD_AND_MORE = ["lm_head", "model.layers.0.mlp"]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model saved in bf16, as most on the hub."""
    folder, tokenizer = tmp_path_factory.mktemp("original"), make_tokenizer()
    shape = {"hidden_size": 128, "intermediate_size": 256, "tie_word_embeddings": False}
    make_llama(tokenizer, **shape).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def stored(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Stores the original in 4 bits: `stored(double=True, skipped=...)`."""
    made: dict[str, Path] = {}

    def store(**settings: Any) -> Path:
        key = repr(sorted(settings.items()))
        if key not in made:
            made[key] = save_in_nf4(original, tmp_path_factory.mktemp("nf4"), **settings)
        return made[key]

    return store


def section(folder: Path, **settings: Any) -> ModelSection:
    return ModelSection(name=str(folder), device="cpu", **settings)


def behaviour(model: Any) -> list[torch.Tensor]:
    """Returns logits, and the gradients of adapters, with plain modules and computed whole."""
    model = add_lora(model, LoraSection(rank=4), seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1, generator=generator)
    with torch.no_grad(), whole_layers(model) as layers:
        whole = model(input_ids=IDS).logits
    assert layers == 2
    with torch.autocast("cpu", model.dtype, enabled=model.dtype != torch.float32):
        output = model.train()(input_ids=IDS, labels=IDS)
    output.loss.backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return [output.logits.detach(), whole, torch.cat(gradients)]


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_is_the_model_that_quantizing_the_original_gives(
    original: Path, stored: Any, precision: str, double: bool
) -> None:
    settings = {"precision": precision, "double_quantization": double}
    quantized = load_model(section(original, **settings))
    found = load_model(section(stored(double=double), **settings))
    wanted_dtypes = {name: p.dtype for name, p in quantized.model.named_parameters()}
    assert {name: p.dtype for name, p in found.model.named_parameters()} == wanted_dtypes
    assert not any(p.requires_grad for p in found.model.parameters())
    kept = {name for name, m in found.model.named_modules() if type(m) is torch.nn.Linear}
    assert kept == {"lm_head"}
    for module in found.model.modules():
        if isinstance(module, Linear4bit):
            state: Any = module.weight.quant_state
            assert (state.dtype, module.compute_dtype) == (found.dtype, found.dtype)
            assert state.nested == double
    for got, wanted in zip(behaviour(found.model), behaviour(quantized.model), strict=True):
        assert torch.equal(got, wanted)


def test_its_head_and_embeddings_may_stay_on_the_host(stored: Any) -> None:
    memory = MemorySection(embeddings="host", head="host", vocabulary_chunk=100)
    plain = load_model(section(stored(), precision="fp32")).model
    hosted = load_model(section(stored(), precision="fp32"), memory).model
    with torch.no_grad():
        torch.testing.assert_close(hosted(input_ids=IDS).logits, plain(input_ids=IDS).logits)


def test_layers_that_it_keeps_in_16_bits_stay_so(stored: Any) -> None:
    loaded = load_model(section(stored(skipped=HEAD_AND_MORE), precision="fp32"))
    kept = {name for name, m in loaded.model.named_modules() if type(m) is torch.nn.Linear}
    mlp = {f"model.layers.0.mlp.{name}_proj" for name in ("gate", "up", "down")}
    assert kept == {"lm_head", *mlp}
    assert {p.dtype for p in loaded.model.parameters() if p.is_floating_point()} == {torch.float32}


def test_a_norm_stored_in_another_dtype_follows_the_profile(stored: Any, tmp_path: Path) -> None:
    shutil.copytree(stored(), tmp_path, dirs_exist_ok=True)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    norm = "model.norm.weight"
    save_file({**tensors, norm: tensors[norm].float()}, file, metadata={"format": "pt"})
    model = load_model(section(tmp_path, precision="bf16")).model
    assert {p.dtype for p in model.parameters() if p.is_floating_point()} == {torch.bfloat16}


def test_what_transformers_keeps_in_fp32_stays_so(stored: Any) -> None:
    model: Any = load_model(section(stored(), precision="fp32")).model
    model._keep_in_fp32_modules_strict = {"model.norm"}
    set_compute_dtype(model, torch.bfloat16)
    found = {n for n, p in model.named_parameters() if p.dtype == torch.float32}
    assert found == {"model.norm.weight"}


def test_settings_that_contradict_it_are_refused_with_the_fix(stored: Any) -> None:
    with pytest.raises(ConfigError, match=r"32 bits.*set model.double_quantization to false"):
        load_model(section(stored(double=False)))
    with pytest.raises(ConfigError, match=r"8 bits.*set model.double_quantization to true"):
        load_model(section(stored(), double_quantization=False))
    with pytest.raises(ConfigError, match=r"set model.quantization to 'nf4', or name"):
        load_model(section(stored(), quantization="none"))


def test_a_head_in_4_bits_is_refused(stored: Any) -> None:
    with pytest.raises(ModelError, match=r"output head is stored in 4 bits.*model\.name"):
        load_model(section(stored(skipped=["embed_tokens"])))


@pytest.mark.parametrize(
    ("settings", "how"),
    [
        ({"quant_method": "gptq", "bits": 4}, "by gptq"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "in 8 bits"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}, "as fp4"),
        ({"load_in_4bit": True}, "as fp4"),
        (
            {
                "load_in_4bit": True,
                "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_quant_storage": "bfloat16",
            },
            "in blocks of bfloat16",
        ),
        (
            {
                "load_in_4bit": True,
                "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_compute_dtype": "no dtype",
            },
            "with settings that cannot be read .*no dtype",
        ),
        (
            {
                "load_in_4bit": True,
                "bnb_4bit_quant_type": "nf4",
                "llm_int8_skip_modules": [1],
            },
            "no list of names",
        ),
        (
            {
                "load_in_4bit": True,
                "bnb_4bit_quant_type": "nf4",
                "llm_int8_skip_modules": ["lm_head("],
            },
            "no list of names",
        ),
        ([], "by an unknown program"),
        ("nf4", "by an unknown program"),
    ],
)
def test_other_quantizations_are_refused_by_name(settings: object, how: str) -> None:
    with pytest.raises(ModelError, match=f"stored quantized .*{how}.*model.name"):
        read_quantization(settings, "model.name = 'x'")


def test_a_profile_refuses_another_programs_quantization(original: Path, tmp_path: Path) -> None:
    for file in original.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((original / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelError, match=r"by gptq.*16-bit weights"):
        load_model(section(tmp_path))


@pytest.mark.parametrize(
    ("skipped", "some"),
    [(None, False), (["lm_head"], False), (["lm_head", "model.layers.3.mlp"], True)],
)
def test_kept_layers_are_told_from_a_kept_head(skipped: Any, some: bool) -> None:
    settings = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "llm_int8_skip_modules": skipped,
    }
    read = read_quantization(settings, "x")
    assert read is not None
    assert skips_layers(read) == some
