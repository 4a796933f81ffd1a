"""The tiny models that memory is predicted and measured for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmcausal.config import RunConfig
from llmcausal.memory.prediction import Prediction
from llmcausal.memory.simulation import run
from llmcausal.memory.strategies import STRATEGIES
from tests.assembly.conftest import tiny_config

__all__ = ["tiny_config"]


@pytest.fixture
def tiny(tmp_path: Path, tiny_llama: Any, chatml_tokenizer: Any) -> Callable[..., RunConfig]:
    """Makes configs over one tiny model on disk."""
    model = tmp_path / "model"
    tiny_llama(
        hidden_size=128, intermediate_size=256, tie_word_embeddings=False, num_hidden_layers=3
    ).save_pretrained(model)
    chatml_tokenizer.save_pretrained(model)

    def make(strategy: str = "recompute", **model_settings: Any) -> RunConfig:
        settings = {"name": str(model), "device": "cpu", "unpack_on_cpu": False, **model_settings}
        return RunConfig.model_validate(
            {
                "model": settings,
                "memory": {"strategy": "manual", **STRATEGIES.get(strategy, {}), "token_chunk": 64},
                "train": {"accumulation_steps": 2},
            }
        )

    return make


@pytest.fixture
def tiny_config_of(tmp_path: Path, tiny_llama: Any) -> Callable[[int], RunConfig]:
    """Makes a config over the shape of a tiny model of some layers; it has no weights."""

    def make(layers: int) -> RunConfig:
        tiny_llama(num_hidden_layers=layers).config.save_pretrained(tmp_path)
        return RunConfig.model_validate({"model": {"name": str(tmp_path), "precision": "bf16"}})

    return make


@pytest.fixture
def same_without_repeating(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Checks that a prediction with repeated layers is that with every layer run."""

    def check(predicted: Callable[[], Prediction]) -> None:
        repeated = predicted()
        monkeypatch.setattr(run, "REAL_LAYERS", 99)
        real = predicted()
        assert repeated.extrapolated
        assert not real.extrapolated
        for name in ("components", "peak_phase", "peak_tensors"):
            assert getattr(repeated, name) == getattr(real, name)
        assert dict(repeated.kernels) == dict(real.kernels)

    return check
