"""The scale of the adapter: measured in one run, exported as chosen; weights stay as they were."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.helpers import rescale_adapter_scale
from safetensors.torch import load_file

from llmcausal.cli import app
from llmcausal.evaluation.answer_store import weights_fingerprint
from llmcausal.model.lora import ADAPTER_WEIGHTS, load_adapter, write_scaled
from tests import program

SCALES = (1.5, 0.0, 1.0, 0.5)


@pytest.fixture
def checkpoint(
    tiny_config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    monkeypatch.setenv("LLMCAUSAL_CACHE", str(tmp_path / "cache"))
    config = tiny_config(
        data={"builtin": {"test": 4, "test_seen": 0}},
        train={"max_steps": 2, "learning_rate": 0.05},
        evaluation={"at_end": False, "max_new_tokens": 4, "batch_size": 3, "cache": True},
    )
    return program.train(config, plain=True).run_dir / "best"


def figures(side: dict[str, Any]) -> dict[str, Any]:
    return {name: side[name] for name in ("attack_success_rate", "utility", "empty_answers")}


def test_one_run_measures_every_scale(checkpoint: Path, tmp_path: Path) -> None:
    result = program.evaluate(checkpoint, reads=False, scales=SCALES, out=tmp_path / "out")
    points = result["scales"]
    assert [point["scale"] for point in points] == sorted(SCALES)
    assert figures(points[0]) == figures(result["base"])
    assert figures(points[2]) == figures(result["tuned"])
    assert all(point["attack_success_rate"]["n"] == 4 for point in points)
    written = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))
    assert written["scales"] == points
    report = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "Scales of the adapter" in report
    assert "| 1.5 |" in (tmp_path / "out" / "report.md").read_text("utf-8")


def test_scale_0_without_a_baseline_is_the_base_all_the_same(
    checkpoint: Path, tmp_path: Path
) -> None:
    whole = program.evaluate(checkpoint, reads=False, out=tmp_path / "a")
    alone = program.evaluate(
        checkpoint, reads=False, baseline=False, scales=(0.0, 1.0), out=tmp_path / "b"
    )
    assert alone["base"] is None
    assert figures(alone["scales"][0]) == figures(whole["base"])


def test_a_scaled_model_is_the_exported_one_and_the_scale_ends(
    peft_model: Any, tiny_llama: Callable[..., Any], tmp_path: Path
) -> None:
    tokens = torch.arange(40, 60)[None]

    @torch.no_grad()
    def logits(model: Any) -> torch.Tensor:
        return model(input_ids=tokens).logits

    peft_model.eval()
    before = logits(peft_model), weights_fingerprint(peft_model, adapter=True)
    peft_model.save_pretrained(tmp_path / "trained")
    (tmp_path / "scaled").mkdir()
    write_scaled(tmp_path / "trained", tmp_path / "scaled", 0.5)
    with rescale_adapter_scale(peft_model, 0.5):
        half = logits(peft_model)
        assert weights_fingerprint(peft_model, adapter=True) != before[1]
    with rescale_adapter_scale(peft_model, 0), peft_model.disable_adapter():
        base = logits(peft_model)
    with rescale_adapter_scale(peft_model, 0):
        assert torch.equal(logits(peft_model), base)
    assert torch.equal(logits(peft_model), before[0])
    assert weights_fingerprint(peft_model, adapter=True) == before[1]
    assert not torch.allclose(half, before[0], atol=1e-3)
    exported = load_adapter(tiny_llama(seed=0), tmp_path / "scaled").eval()
    torch.testing.assert_close(logits(exported), half)


def test_export_takes_the_chosen_scale(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "half"
    report = program.export(checkpoint, target="adapter", out=out, scale=0.5)
    assert report["checked"] is not False
    assert report["lora_scale"] == 0.5
    trained, written = (load_file(each / ADAPTER_WEIGHTS) for each in (checkpoint, out))
    assert trained.keys() == written.keys()
    for name, value in written.items():
        factor = 0.5 if "lora_B" in name else 1
        assert torch.equal(value, factor * trained[name])
    assert "0.5 of the trained one" in (out / "README.md").read_text("utf-8")


@pytest.mark.parametrize("text", ["", "x", "0,-1", "0.5,,nan", "11"])
def test_scales_that_are_none_are_refused(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["llmcausal", "eval", "--checkpoint", "best", "--lora-scale", text]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit, match="2"):
        app.main()
    assert "give numbers from 0 to 10" in capsys.readouterr().err
