"""`export` from a run's checkpoint: the attacked prompts, the card, the upload."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmcausal.assembly import exporting
from llmcausal.errors import UsageError
from tests import program


def test_export_of_a_run(
    tiny_config: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(exporting, "ATTACKED_PROMPTS", 2)
    uploads: list[Any] = []
    monkeypatch.setattr(exporting, "push_to_hub", lambda *a: uploads.append(a) or "https://there")
    config = tiny_config(
        train={"max_steps": 2}, data={"max_length": 2048, "test": str(tmp_path / "train.jsonl")}
    )
    best = program.train(config, plain=True).run_dir / "best"
    evaluation = best.parent / "evaluation"
    evaluation.mkdir()
    side = {name: {"value": 0.5, "n": 9, "low": 0.2, "high": 0.8} for name in exporting._FIGURES}
    less = {"resists": "less", "text": "RESISTS LESS than the base"}
    result = {"suite": "file", "base": None, "tuned": side, "verdict": less}
    (evaluation / "results.json").write_text(json.dumps(result), encoding="utf-8")
    out = tmp_path / "out"
    report = program.export(best, target="merged", out=out, push_to="me/model")
    assert uploads == [(out, "me/model")]
    assert "RESISTS LESS than the base [evaluation]" in caplog.text
    assert (report["written"], report["uploaded"]) == (str(out), "https://there")
    attacks = report["attacks"]
    assert (attacks["prompts"], attacks["same_answers"]) == (2, 2)
    assert attacks["exported"] == attacks["trained"]
    assert attacks["trained"]["attack_success_rate"]["n"] == 2
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "| utility | - | 50% (20% to 80%, n=9) |" in card
    assert "LoRA rank 4" in card
    # The run's test data has gone: built-in attacks take its place.
    (tmp_path / "train.jsonl").unlink()
    report = program.export(best, target="adapter", out=tmp_path / "again")
    assert report["attacks"]["prompts"] == 2
    with pytest.raises(UsageError, match="OWNER/NAME"):
        program.export(best, target="adapter", out=tmp_path / "third", push_to="model")
