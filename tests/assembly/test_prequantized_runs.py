"""A whole run on a checkpoint in 4 bits: figures, evaluation and exports of quantizing it here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llmcausal.assembly import exporting
from llmcausal.train.callbacks.metrics_log import read_rows
from tests import program
from tests.tiny import save_in_nf4


def test_a_run_on_a_checkpoint_in_4_bits_is_the_run_on_its_original(
    tiny_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "ATTACKED_PROMPTS", 1)
    monkeypatch.setattr("llmcausal.export.check.NEW_TOKENS", 4)
    stored = save_in_nf4(tmp_path / "model", tmp_path / "nf4", dtype=torch.float32)
    settings: dict[str, Any] = {
        "train": {"max_steps": 2},
        "data": {"max_length": 2048, "test": str(tmp_path / "train.jsonl")},
        "evaluation": {"max_samples": 1, "max_new_tokens": 4},
    }
    rows, answers = [], []
    for name in (tmp_path / "model", stored):
        model = {"name": str(name), "device": "cpu", "precision": "fp32"}
        config = tiny_config(name=name.name, model=model, **settings)
        run_dir = program.train(config, plain=True).run_dir
        rows.append(read_rows(run_dir / "metrics.jsonl"))
        result = program.evaluate(run_dir / "best")
        answers.append([row["answer"] for row in result["generations"]])
    assert [row["loss"] for row in rows[0] if "loss" in row]
    for wanted, found in zip(*rows, strict=True):
        for name in ("loss", "val_loss", "grad_norm"):
            assert found.get(name) == wanted.get(name)
    assert answers[0] == answers[1]
    assert program.export(run_dir / "best", target="adapter", out=tmp_path / "lora")["checked"]
    merged = program.export(run_dir / "best", target="merged", out=tmp_path / "merged")
    assert merged["checked"]
    assert merged["base_weights"] == "dequantized from NF4"
