"""The demo's model, trained for a few steps and exported to each format."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_the_demo_exported_four_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmcausal.assembly import exporting
    from llmcausal.profile import load_config
    from tests import program

    monkeypatch.setattr(exporting, "ATTACKED_PROMPTS", 4)
    settings = (
        "data.max_length=512",
        "data.builtin.natural=0",
        "data.builtin.train=8",
        "data.builtin.validation=4",
        "data.builtin.test=20",
        "data.builtin.test_seen=0",
        "train.batch_size=4",
        "evaluation.at_end=false",
        "evaluation.max_new_tokens=48",
        f"output_dir='{tmp_path}'",
    )
    best = program.train(load_config("demo-cpu", settings), plain=True).run_dir / "best"
    for target in ("adapter", "merged", "gguf", "ollama"):
        report = program.export(best, target=target, out=tmp_path / target)
        assert report["same_answers"], target
        assert report["answers_stopped"] == report["reference_answers_stopped"] > 0
        limit = 1e-4 if target in ("adapter", "merged") else 1e-2
        assert report["max_abs_logit_difference"] <= limit * report["max_abs_logit"]
        assert report["attacks"]["prompts"] == 4
    assert any("llama.cpp" in name for name in report["loaded_by"])
