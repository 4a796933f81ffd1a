from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from llmcausal.data.template import ChatTemplate
from llmcausal.errors import CheckpointError, ConfigError, ModelError, UsageError
from llmcausal.export import EXPORTERS
from llmcausal.export import adapter as adapter_module
from llmcausal.export import merged as merged_module

IDS = torch.tensor([[5, 9, 200, 31, 77, 12]])
OTHER_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n\n' + m['content'] + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n\n' }}{% endif %}"
)


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model.eval()(input_ids=IDS).logits
    return result


def load_plainly(kind: str, folder: Path, base_dir: Path) -> Any:
    """As a user does it, with nothing of this program."""
    if kind == "merged":
        return AutoModelForCausalLM.from_pretrained(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_dir), folder)


def by_hand(base_dir: Path, checkpoint: Path) -> Any:
    """The reference: W + alpha / r * B A, written into the base by hand."""
    from safetensors.torch import load_file

    model = AutoModelForCausalLM.from_pretrained(base_dir)
    config = json.loads((checkpoint / "adapter_config.json").read_text(encoding="utf-8"))
    weights = load_file(checkpoint / "adapter_model.safetensors")
    for name, lora_a in weights.items():
        if "lora_A" in name:
            lora_b = weights[name.replace("lora_A", "lora_B")]
            target = name.removeprefix("base_model.model.").replace(".lora_A.weight", "")
            update = lora_b @ lora_a * (config["lora_alpha"] / config["r"])
            model.get_submodule(target).weight.data += update
    return model


@pytest.mark.parametrize("kind", ["adapter", "merged"])
def test_artifact_is_the_trained_model(
    kind: str, source: Any, checkpoint: Path, base_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "out"
    report = EXPORTERS.load(kind)(source, out)
    expected = logits_of(by_hand(base_dir, checkpoint))
    untrained = logits_of(AutoModelForCausalLM.from_pretrained(base_dir))
    got = logits_of(load_plainly(kind, out, base_dir))
    assert (untrained - expected).abs().max() > 0.1
    assert (got - expected).abs().max() < 1e-4
    assert json.loads((out / "export_check.json").read_text(encoding="utf-8")) == report
    assert report["max_abs_logit_difference"] <= report["tolerance"] < 0.01
    assert report["same_answers"]
    assert report["same_prompt_tokens"]
    assert sorted(p.name for p in out.parent.iterdir()) == ["out"]
    assert "training_state.pt" not in {p.name for p in out.iterdir()}


def test_adapter_folder(source: Any, base_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    EXPORTERS.load("adapter")(replace(source, base_revision="main"), out)
    config = json.loads((out / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == str(base_dir.resolve())
    assert config["revision"] == "main"
    assert config["inference_mode"] is True
    assert not list(out.glob("*.bin"))
    card = (out / "README.md").read_text(encoding="utf-8")
    assert str(base_dir) in card
    assert "licence of the base model applies" in card
    code = card.split("```python\n")[1].split("```")[0]
    compile(code, "README.md", "exec")


def test_merged_folder_ends_answers_and_keeps_the_cache(source: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    EXPORTERS.load("merged")(source, out)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in config
    assert config["use_cache"] is True
    assert list(out.glob("*.safetensors"))
    assert not list(out.glob("adapter*"))
    assert GenerationConfig.from_pretrained(out).eos_token_id == source.template.stop_ids


@pytest.mark.parametrize("kind", ["adapter", "merged"])
def test_the_trainings_own_chat_template_travels(
    kind: str, source: Any, chatml_tokenizer: Any, tmp_path: Path
) -> None:
    template = ChatTemplate(chatml_tokenizer, OTHER_TEMPLATE)
    EXPORTERS.load(kind)(replace(source, template=template), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids == template.encode_prompt("Be kind.", "Hello")
    assert chatml_tokenizer.chat_template != OTHER_TEMPLATE  # the source is untouched


def test_published_settings_that_cannot_be_saved_are_mended(source: Any, tmp_path: Path) -> None:
    def load_base() -> Any:
        base = source.load_base()
        base.generation_config = GenerationConfig(do_sample=False, eos_token_id=3)
        base.generation_config.temperature = 0.6  # as some hub models have it
        return base

    EXPORTERS.load("merged")(replace(source, load_base=load_base), tmp_path / "out")
    saved = GenerationConfig.from_pretrained(tmp_path / "out")
    assert saved.eos_token_id == source.template.stop_ids
    assert saved.temperature in (None, 1.0)


def test_sampling_settings_of_the_base_are_kept(source: Any, tmp_path: Path) -> None:
    def load_base() -> Any:
        base = source.load_base()
        base.generation_config = GenerationConfig(do_sample=True, temperature=0.6, top_p=0.9)
        return base

    report = EXPORTERS.load("merged")(replace(source, load_base=load_base), tmp_path / "out")
    saved = GenerationConfig.from_pretrained(tmp_path / "out")
    assert (saved.do_sample, saved.temperature, saved.top_p) == (True, 0.6, 0.9)
    assert report["same_answers"]  # the check itself is greedy


def test_quantized_base_is_refused(source: Any, tmp_path: Path) -> None:
    from transformers import BitsAndBytesConfig

    def load_base() -> Any:
        quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
        return AutoModelForCausalLM.from_pretrained(
            source.base_name, quantization_config=quantization
        )

    with pytest.raises(ModelError, match="quantized"):
        EXPORTERS.load("merged")(replace(source, load_base=load_base), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def damage_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = next(folder.glob("*.safetensors"))
    weights = load_file(path)
    name = next(name for name in weights if "q_proj" in name)
    weights[name] = weights[name] + 0.05
    save_file(weights, path, metadata={"format": "pt"})


def damage_with_nan(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = next(folder.glob("*.safetensors"))
    weights = load_file(path)
    name = next(name for name in weights if "down_proj" in name)
    weights[name] = weights[name] * float("nan")
    save_file(weights, path, metadata={"format": "pt"})


def damage_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(OTHER_TEMPLATE, encoding="utf-8")


def damage_end_of_turn(folder: Path) -> None:
    path = folder / "generation_config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values["eos_token_id"] = 3
    path.write_text(json.dumps(values), encoding="utf-8")


@pytest.mark.parametrize("kind", ["adapter", "merged"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_weights, "logits differ"),
        (damage_with_nan, "logits differ"),
        (damage_template, "chat template"),
        (damage_end_of_turn, "it stops at 3"),
    ],
)
def test_a_wrong_artifact_is_found_and_removed(
    kind: str,
    damage: Any,
    message: str,
    source: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = {"adapter": adapter_module, "merged": merged_module}[kind]
    save = type(source).save_tokenizer

    def save_and_damage(self: Any, folder: Path) -> None:
        save(self, folder)
        damage(folder)

    monkeypatch.setattr(type(source), "save_tokenizer", save_and_damage)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ModelError, match=message):
        getattr(module, f"export_{kind}")(source, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_answers_that_no_longer_end_are_found(source: Any) -> None:
    from llmcausal.export.check import Behaviour, check_artifact, observe

    model = source.load()
    settings = source.generation_config(model)
    reference = observe(model, source.template, settings)
    assert not any(reference.stopped)  # a random model: say it had stopped
    stopped = Behaviour(reference.logits, reference.answers, [True] * len(reference.stopped))
    folder = source.adapter_dir
    settings.save_pretrained(folder)
    source.save_tokenizer(folder)
    with pytest.raises(ModelError, match="never end"):
        check_artifact(folder, model, stopped, source.template, trust_remote_code=False)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_checkpoint_without_adapter(name: str, source: Any, tmp_path: Path) -> None:
    (source.adapter_dir / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        EXPORTERS.load("merged")(source, tmp_path / "out")


@pytest.mark.parametrize("kind", ["adapter", "merged"])
def test_existing_output_is_refused_before_the_model_loads(
    kind: str, source: Any, tmp_path: Path
) -> None:
    def never() -> Any:
        raise AssertionError("the model was loaded")

    (tmp_path / "mine.txt").write_text("keep", encoding="utf-8")
    for out in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(UsageError, match="--out"):
            EXPORTERS.load(kind)(replace(source, load_base=never), out)
    assert (tmp_path / "mine.txt").read_text(encoding="utf-8") == "keep"


def test_unknown_format_says_what_exists() -> None:
    with pytest.raises(ConfigError, match="adapter, merged"):
        EXPORTERS.load("gguf")
