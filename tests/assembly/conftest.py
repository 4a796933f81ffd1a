"""A whole program in a folder: a tiny random model, data, and a config that trains on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmcausal.config import RunConfig


@pytest.fixture
def tiny_config(tmp_path: Path, tiny_llama: Any, chatml_tokenizer: Any) -> Callable[..., RunConfig]:
    """Makes a config: `tiny_config(train={"max_steps": 4}, ...)`; everything is on disk."""
    from llmcausal.data.builtin import generate
    from llmcausal.data.formats.jsonl import write_triplets

    model = tmp_path / "model"
    tiny_llama(hidden_size=64, intermediate_size=128, max_position_embeddings=2048).save_pretrained(
        model
    )
    chatml_tokenizer.save_pretrained(model)
    data = tmp_path / "train.jsonl"
    write_triplets(data, generate("train", 20, seed=1))

    def make(**sections: Any) -> RunConfig:
        values: dict[str, Any] = {
            "name": "tiny",
            "output_dir": tmp_path / "runs",
            "model": {"name": str(model), "device": "cpu"},
            "memory": {"activations": "keep"},
            "lora": {"rank": 4, "dropout": 0.1},
            "data": {"train": str(data)},
            "loss": {"projection_dim": 8, "projection_hidden_dim": 16},
            "train": {
                "batch_size": 2,
                "accumulation_steps": 2,
                "epochs": 2,
                "learning_rate": 1e-3,
            },
            "validation": {"every_steps": 2, "batch_size": 2},
            "checkpoint": {"every_steps": 2, "keep": 2},
            "evaluation": {"at_end": False, "cache": False},
        }
        for section, settings in sections.items():
            if isinstance(settings, dict):
                values[section] = {**values.get(section, {}), **settings}
            else:
                values[section] = settings
        return RunConfig.model_validate(values)

    return make
