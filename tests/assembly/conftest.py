"""A whole program in a folder: a tiny random model, data, and a config that trains on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmcausal.config import RunConfig


@pytest.fixture
def tiny_config(tmp_path: Path, tiny_files: tuple[Path, Path]) -> Callable[..., RunConfig]:
    """Makes a config: `tiny_config(train={"max_steps": 4}, ...)`; everything is on disk."""
    model, data = tiny_files

    def make(**sections: Any) -> RunConfig:
        values: dict[str, Any] = {
            "name": "tiny",
            "output_dir": tmp_path / "runs",
            "model": {"name": str(model), "device": "cpu", "precision": "fp32"},
            "memory": {"activations": "keep"},
            "lora": {"rank": 4, "dropout": 0.1},
            "data": {"train": str(data)},
            "loss": {
                "projection_dim": 8,
                "projection_hidden_dim": 16,
                "contrast_gradient": "model",
            },
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
