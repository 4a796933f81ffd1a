"""What `llmcausal export` passes on, and what it prints."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from llmcausal.assembly import exporting
from llmcausal.cli import app
from llmcausal.export.artifact import ExportOptions

FIGURE = {"value": 0.25, "n": 12, "low": 0.09, "high": 0.53}
REPORT: dict[str, Any] = {
    "written": "out",
    "format": "gguf",
    "checked": True,
    "weights": "q4_k_m",
    "loaded_by": ["transformers", "llama.cpp"],
    "prompts": 4,
    "max_abs_logit_difference": 1.25,
    "tolerance": None,
    "same_answers": False,
    "answers_stopped": 3,
    "reference_answers_stopped": 4,
    "answers": ["It is \x1b[2JParis.\nYes."],
    "attacks": {
        "prompts": 12,
        "same_answers": 9,
        "trained": {"attack_success_rate": FIGURE},
        "exported": {"attack_success_rate": {**FIGURE, "value": None}},
    },
    "uploaded": "https://example.org/me/model",
}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["llmcausal", "export", *arguments])
    with pytest.raises(SystemExit) as stopped:
        app.main()
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def test_what_is_passed_on_and_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[Any] = []

    def export(request: exporting.ExportRequest) -> Any:
        calls.append(request)
        print("a library prints something")
        return REPORT

    monkeypatch.setattr(exporting, "export_checkpoint", export)
    monkeypatch.setenv("COLUMNS", "200")
    arguments = ("--checkpoint", "best", "--format", "gguf", "--out", "out")
    assert run(monkeypatch, *arguments) == 0
    assert calls.pop() == exporting.ExportRequest(Path("best"), "gguf", Path("out"))
    shown = capsys.readouterr().out
    assert "a library" not in shown
    assert "\x1b" not in shown
    assert "logits differ by 1.2 (no limit for this quantization)" in shown
    assert "answers: 3 of 4 end by themselves (trained model: 4), not all the same" in shown
    assert "attack_success_rate: -, trained model 25% (9% to 53%)" in shown
    assert "uploaded: https://example.org/me/model" in shown
    more = ("--quantize", "Q8_0", "--llama-cpp", "ll", "--no-check", "--push-to-hub", "me/model")
    assert run(monkeypatch, *arguments, *more, "--json") == 0
    request = calls.pop()
    assert request.options == ExportOptions("q8_0", Path("ll"), check=False)
    assert request.push_to == "me/model"
    assert json.loads(capsys.readouterr().out) == REPORT


def test_help_names_the_formats(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run(monkeypatch, "--help") == 0
    assert "adapter, merged, gguf, ollama" in capsys.readouterr().out
