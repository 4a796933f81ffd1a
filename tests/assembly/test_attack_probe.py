"""Runs whose validations also answer in text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from llmcausal.errors import CheckpointError, ConfigError
from llmcausal.train.checkpoint import verify
from tests import program

FIGURES = {"val_attack_success_rate", "val_utility", "val_utility_under_attack"}
GENERATION = {"max_new_tokens": 4, "batch_size": 3}


def _rows(run_dir: Path) -> list[dict[str, Any]]:
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if not k.startswith(("seconds", "memory"))}
        for line in lines
    ]


def _adapter(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "adapter_model.safetensors")


def test_the_probe_measures_and_disturbs_nothing(
    tiny_config: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dropout is on: a random state, a mode or a gradient disturbed would show in the weights."""
    without = program.train(tiny_config(evaluation={"at_end": False}), plain=True).run_dir
    config = tiny_config(
        validation={"attack_probe": 4},
        evaluation={"at_end": False, **GENERATION},
        checkpoint={"best_metric": "val_attack_success_rate", "guard_metric": "val_utility"},
        early_stopping={"metric": "val_utility_under_attack", "mode": "max", "patience": 99},
    )
    run_dir = program.train(config, plain=True).run_dir
    assert "ASR" in capsys.readouterr().out
    for row, other in zip(_rows(run_dir), _rows(without), strict=True):
        assert {key: row[key] for key in other} == other
        assert set(row) - set(other) == (FIGURES if row["step"] % 2 == 0 else set())
        assert all(0 <= row[key] <= 1 for key in FIGURES & row.keys())
    ends = [_adapter(folder / "checkpoint-10") for folder in (run_dir, without)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[1])
    before = _rows(run_dir)
    state = torch.load(run_dir / "best" / "training_state.pt", weights_only=True)["state"]
    assert state["best_step"] == verify(run_dir / "best")["step"]
    best = _adapter(run_dir / "best")
    program.resume(run_dir / "checkpoint-8", plain=True)
    assert _rows(run_dir) == before
    again = _adapter(run_dir / "checkpoint-10")
    assert all(torch.equal(again[name], ends[0][name]) for name in again)
    assert all(torch.equal(value, best[name]) for name, value in _adapter(run_dir / "best").items())


def test_what_the_probe_measures_cannot_change_on_resume(tiny_config: Any) -> None:
    settings = {"train": {"max_steps": 2}, "evaluation": {"at_end": False, **GENERATION}}
    config = tiny_config(validation={"attack_probe": 2}, **settings)
    run_dir = program.train(config, plain=True).run_dir
    toml = run_dir / "config.toml"
    toml.write_text(toml.read_text().replace("max_new_tokens = 4", "max_new_tokens = 5"))
    with pytest.raises(CheckpointError, match=r"evaluation\.max_new_tokens: 4 -> 5"):
        program.resume(run_dir, plain=True)


@pytest.mark.parametrize(
    ("section", "name"),
    [
        ("checkpoint", "best_metric"),
        ("checkpoint", "guard_metric"),
        ("early_stopping", "metric"),
    ],
)
def test_a_figure_of_the_probe_without_the_probe_is_refused_at_start(
    tiny_config: Any, tmp_path: Path, section: str, name: str
) -> None:
    config = tiny_config(**{section: {name: "val_utility"}})
    with pytest.raises(ConfigError, match=rf"{section}\.{name}.*validation\.attack_probe"):
        program.train(config, plain=True)
    assert not (tmp_path / "runs").exists()


def test_a_figure_that_the_data_cannot_give_is_refused_at_start(
    tiny_config: Any, tmp_path: Path
) -> None:
    from dataclasses import replace

    from llmcausal.data.builtin import generate
    from llmcausal.data.formats.jsonl import write_triplets

    data = tmp_path / "no-checks.jsonl"
    write_triplets(data, [replace(each, check=None) for each in generate("train", 6, seed=2)])
    config = tiny_config(
        data={"validation": str(data)},
        validation={"attack_probe": 2},
        evaluation=GENERATION,
        checkpoint={"best_metric": "val_utility", "best_mode": "max"},
    )
    with pytest.raises(ConfigError, match=r"checkpoint\.best_metric.*'check'"):
        program.train(config, plain=True)
