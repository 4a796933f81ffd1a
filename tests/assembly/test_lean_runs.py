"""A whole run with every switch of `[memory]`: same figures, exact resume, evaluation, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from llmcausal.errors import ConfigError
from llmcausal.model import factory
from llmcausal.train.callbacks.metrics_log import read_rows
from tests import program

LEANEST = {
    "strategy": "manual",
    "activations": "offload",
    "embeddings": "host",
    "head": "host",
    "members": "one_by_one",
    "token_chunk": 64,
    "label_chunk": 8,
    "vocabulary_chunk": 100,
}
FIGURES = (
    "loss", "val_loss", "task_loss", "invariance_loss", "state_loss", "val_state_loss", "grad_norm",
    "causal_stability",
)  # fmt: skip


def test_a_lean_run_trains_resumes_evaluates_and_exports(tiny_config: Any, tmp_path: Path) -> None:
    """With dropout, whose masks are those of the plain run; chunks of an MLP draw their own."""
    settings: dict[str, Any] = {
        "train": {"max_steps": 4, "optimizer": "adamw"},
        "loss": {"lambda_invariance": 0.5, "lambda_state": 0.5, "lambda_adversarial": 0.2},
        "evaluation": {"max_samples": 2, "max_new_tokens": 4},
    }
    drawn_alike = {"members": "separate", "token_chunk": LEANEST["token_chunk"]}
    plain = program.train(tiny_config(memory=drawn_alike, **settings), plain=True)
    lean = program.train(tiny_config(memory=LEANEST, **settings), plain=True).run_dir
    for wanted, found in zip(
        read_rows(plain.run_dir / "metrics.jsonl"), read_rows(lean / "metrics.jsonl"), strict=True
    ):
        assert found.keys() == wanted.keys()
        for name in FIGURES:
            if name in wanted:
                assert found[name] == pytest.approx(wanted[name], rel=1e-3, abs=1e-4), name
    last = lean / "checkpoint-4" / "adapter_model.safetensors"
    weights = last.read_bytes()
    program.resume(lean / "checkpoint-2", plain=True)
    assert last.read_bytes() == weights
    answered = program.evaluate(lean / "best")
    assert answered["tuned"]["attack_success_rate"]["n"] == 2
    for target in ("adapter", "merged"):
        program.export(lean / "best", target=target, out=tmp_path / target)


def test_kept_layers_change_no_figure_and_resume_exactly(tiny_config: Any) -> None:
    """With dropout, whose masks are those of the run that recomputes everything."""
    weights = {}
    for kept in (0, 1, 9):
        memory = {"strategy": "manual", "activations": "recompute", "kept_layers": kept}
        config = tiny_config(
            name=f"kept-{kept}",
            memory=memory,
            model={"unpack_on_cpu": False},
            train={"max_steps": 3, "optimizer": "adamw"},
        )
        run_dir = program.train(config, plain=True).run_dir
        last = run_dir / "checkpoint-3" / "adapter_model.safetensors"
        weights[kept] = last.read_bytes()
        assert f"kept_layers = {kept}" in (run_dir / "config.toml").read_text(encoding="utf-8")
        if kept == 1:
            program.resume(run_dir / "checkpoint-2", plain=True)
            assert last.read_bytes() == weights[kept]
    assert weights[0] == weights[1] == weights[9]


def test_adapters_in_the_compute_dtype(tiny_config: Any) -> None:
    """bf16 without autocast: the adapters are saved, resumed and read as what they are."""
    config = tiny_config(
        model={"precision": "bf16", "quantization": "none"},
        memory={"lora_dtype": "compute"},
        train={"max_steps": 2, "optimizer": "adamw"},
        loss={"lambda_contrastive": 0.0},
        evaluation={"max_samples": 2, "max_new_tokens": 4},
    )
    run_dir = program.train(config, plain=True).run_dir
    saved = safetensors.torch.load_file(run_dir / "best" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}
    losses = [row["val_loss"] for row in read_rows(run_dir / "metrics.jsonl") if "val_loss" in row]
    assert losses[-1] < losses[0]
    assert program.evaluate(run_dir / "best")["tuned"]["attack_success_rate"]["n"] == 2


def test_fp16_adapters_are_refused(tiny_config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory, "choose_dtype", lambda _name, _device: torch.float16)
    config = tiny_config(model={"quantization": "none"}, memory={"lora_dtype": "compute"})
    with pytest.raises(ConfigError, match="fp16"):
        program.train(config, plain=True)
