"""A whole program in a folder: a tiny random model, data, and a config that trains on them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup

from llmcausal.assembly.training import TrainOutcome
from llmcausal.config import RunConfig
from tests import program


def draw_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the drawings of reports empty.

    matplotlib takes longer than a tiny run's steps; `tests/ui` draws them.
    """
    for name in ("line_panel", "representation_map"):
        drawing = f"llmcausal.ui.report.sections.{name}"
        monkeypatch.setattr(drawing, lambda *_, **__: Markup("<svg></svg>"))


@pytest.fixture
def tiny_config(
    tmp_path: Path, tiny_files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., RunConfig]:
    """Makes a config: `tiny_config(train={"max_steps": 4}, ...)`; everything is on disk."""
    draw_nothing(monkeypatch)
    return partial(make_config, tmp_path)


@pytest.fixture(scope="session")
def trained_once(
    tiny_saved: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., TrainOutcome]:
    """Trains a config of `make_config` for the first test that asks for it; nobody changes it."""

    @cache
    def train(sections: str) -> TrainOutcome:
        settings = {"output_dir": str(tmp_path_factory.mktemp("trained")), **json.loads(sections)}
        with pytest.MonkeyPatch.context() as monkeypatch:
            draw_nothing(monkeypatch)
            return program.train(make_config(tiny_saved, **settings), plain=True)

    return lambda **sections: train(json.dumps(sections))


@pytest.fixture
def trained(trained_once: Callable[..., TrainOutcome], tmp_path: Path) -> Callable[..., Path]:
    """Copies a run that is trained once: `trained(train={"max_steps": 4})` returns its directory.

    All such runs share one model and its data, which are not those of `tiny_config`.
    """

    def copy(**sections: Any) -> Path:
        run_dir = trained_once(**sections).run_dir
        return shutil.copytree(run_dir, tmp_path / "runs" / run_dir.name)

    return copy


def make_config(folder: Path, **sections: Any) -> RunConfig:
    """Makes a config of the model and the data in a folder."""
    values: dict[str, Any] = {
        "name": "tiny",
        "output_dir": folder / "runs",
        "model": {"name": str(folder / "model"), "device": "cpu", "precision": "fp32"},
        "memory": {"activations": "keep"},
        "lora": {"rank": 4, "dropout": 0.1},
        "data": {"train": str(folder / "train.jsonl")},
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
