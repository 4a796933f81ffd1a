"""An exported adapter: whole in itself, without paths of this machine, known as an export."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmcausal.assembly import exporting
from llmcausal.assembly.evaluating import load_parts, read_checkpoint
from llmcausal.errors import CheckpointError
from llmcausal.export.artifact import ExportOptions
from llmcausal.train.checkpoint import EXPORTED, MANIFEST, verify
from tests import program

UNCHECKED = ExportOptions(check=False)


def results(folder: Path, checkpoint: str | None, resists: str = "more") -> None:
    """Writes a made-up evaluation with the verdict `resists`."""
    side = {name: {"value": 0.5, "n": 9, "low": 0.2, "high": 0.8} for name in exporting._FIGURES}
    verdict = {"resists": resists, "text": f"verdict of {folder.name}"}
    result = {"suite": folder.name, "base": None, "tuned": side, "verdict": verdict}
    folder.mkdir()
    content = result if checkpoint is None else {**result, "checkpoint": checkpoint}
    (folder / "results.json").write_text(json.dumps(content), encoding="utf-8")


def test_an_exported_adapter_needs_no_file_of_the_run(
    tiny_config: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    own = tmp_path / "elsewhere" / "mine.jinja"
    own.parent.mkdir()
    shutil.copyfile(tmp_path / "model" / "chat_template.jinja", own)
    config = tiny_config(
        model={"chat_template": str(own)},
        train={"max_steps": 2},
        data={"test": str(tmp_path / "train.jsonl"), "builtin": {"test": 2, "test_seen": 0}},
        evaluation={"at_end": False, "max_new_tokens": 2, "max_samples": 2},
    )
    best = program.train(config, plain=True).run_dir / "best"
    monkeypatch.setattr(exporting, "push_to_hub", lambda *_: "https://there")
    out, merged = best.parent / "lora", tmp_path / "merged"
    export = {"target": "adapter", "out": out, "scale": 0.5, "push_to": "me/model"}
    program.export(best, options=UNCHECKED, **export)
    assert "nobody else can load it" in caplog.text  # its base is a folder of this machine
    caplog.clear()
    program.export(best, target="merged", out=merged, options=UNCHECKED, push_to="me/model")
    assert "nobody else" not in caplog.text

    # Only the names of the base are paths of this machine.
    names = {
        path.name
        for folder in (out, merged)
        for path in folder.iterdir()
        if str(tmp_path).encode() in path.read_bytes()
    }
    assert names == {"adapter_config.json", "config.toml", "README.md"}
    assert str(tmp_path) not in (merged / "README.md").read_text("utf-8")
    text = (out / "README.md").read_text("utf-8") + (out / "config.toml").read_text("utf-8")
    assert text.count(str(tmp_path)) == text.count(str(tmp_path / "model"))
    assert "| training data | `train.jsonl` |" in text

    manifest = verify(out)
    assert manifest["config"] == hashlib.sha256((out / "config.toml").read_bytes()).hexdigest()
    assert manifest[EXPORTED] == {
        "run": "tiny", "checkpoint": "best", "lora_scale": 0.5, "own_test": True,
    }  # fmt: skip
    not_hashed = {MANIFEST, "README.md", "export_check.json"}
    assert set(manifest["files"]) == {path.name for path in out.iterdir()} - not_hashed
    with pytest.raises(CheckpointError, match=r"an exported adapter .* checkpoint: tiny/best"):
        program.export(out, target="merged", out=tmp_path / "again", options=UNCHECKED)
    with pytest.raises(CheckpointError, match="an exported adapter has no state of the training"):
        program.resume(out)

    elsewhere = shutil.copytree(out, tmp_path / "copy")
    shutil.rmtree(own.parent)
    shutil.rmtree(best.parent)
    load_parts(*read_checkpoint(elsewhere, trust_remote_code=False), elsewhere)
    asked: dict[str, Any] = {"baseline": False, "reads": False, "progress": lambda *_: None}
    result = program.evaluate(elsewhere, **asked)
    assert "Give --data FILE" in result["notes"][0]
    given = program.evaluate(elsewhere, data=str(tmp_path / "train.jsonl"), **asked)
    assert given["notes"] == []


def test_an_export_has_the_verdict_and_the_figures_of_its_own_checkpoint(
    trained: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = trained(train={"max_steps": 2})
    shutil.rmtree(run / "evaluation", ignore_errors=True)
    results(run / "evaluation", None, "less")  # of `best`
    results(run / "evaluation-lora", str(run / "lora"), "less")
    results(run / "evaluation-checkpoint-2-natural", str(run / "checkpoint-2"), "less")
    checkpoint = run / "checkpoint-2"
    program.export(checkpoint, target="adapter", out=tmp_path / "a", options=UNCHECKED)
    assert "verdict of evaluation-checkpoint-2-natural" in caplog.text
    assert "[evaluation]" not in caplog.text
    assert "## Evaluation" not in (tmp_path / "a" / "README.md").read_text("utf-8")
    caplog.clear()
    program.export(run / "best", target="adapter", out=tmp_path / "b", options=UNCHECKED)
    assert "verdict of evaluation [evaluation]" in caplog.text
    assert "lora" not in caplog.text
    assert "on `evaluation`" in (tmp_path / "b" / "README.md").read_text("utf-8")
