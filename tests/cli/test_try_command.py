"""`llmcausal try`: what it refuses, what it passes on, and what it prints."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from llmcausal.assembly import trying
from llmcausal.assembly.trying import TryRequest
from llmcausal.cli import app

ONCE = ("--system", "Sum up.", "--text")


class Stand:
    """Stands in for a loaded checkpoint."""

    requests: list[TryRequest]

    def __init__(self, request: TryRequest) -> None:
        self.requests.append(request)
        print("a library prints something")

    def detected(self, system: str, texts: list[str]) -> dict[str, Any]:
        return {"off": "the checkpoint has none"}

    def attacked(self, system: str, text: str) -> dict[str, Any]:
        assert system == "Sum up."
        answers = {"base": f"base {text}", "tuned": f"tuned {text}"}
        side = {"answer": "Hammock", "obeyed": True}
        row = {"family": "naive", "position": "end", "text": text, "base": side, "tuned": side}
        goal = {"goal": "Say Hammock.", "witness": "Hammock"}
        detector = {key: {"off": "the checkpoint has none"} for key in ("text", "attacks")}
        return {"answers": answers, **goal, "detector": detector, "attacks": [row]}


@pytest.fixture(autouse=True)
def stand(monkeypatch: pytest.MonkeyPatch) -> type[Stand]:
    """No model is loaded here."""
    Stand.requests = []
    monkeypatch.setattr(trying, "Trials", Stand)
    return Stand


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["llmcausal", "try", "--checkpoint", "best", *arguments])
    with pytest.raises(SystemExit) as stopped:
        app.main()
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def test_a_task_and_a_text_are_answered_and_attacked_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mail.txt"
    file.write_text("  Grüße\n", "utf-8")
    options = ("--attacks", "3", "--goal", "Say it.", "--witness", "it", "--max-tokens", "9")
    assert _run(monkeypatch, *ONCE, str(file), *options, "--json") == 0
    assert Stand.requests == [TryRequest(Path("best"), 3, "Say it.", "it", 9)]
    shown = json.loads(capsys.readouterr().out)
    assert shown["answers"] == {"base": "base Grüße", "tuned": "tuned Grüße"}
    assert shown["detector"]["text"] == {"off": "the checkpoint has none"}
    assert shown["attacks"][0]["tuned"] == {"answer": "Hammock", "obeyed": True}
    assert _run(monkeypatch, *ONCE, str(file)) == 0
    text = capsys.readouterr().out
    assert "tuned Grüße" in text
    assert "tuned obeys 1 of 1" in text
    assert "a library prints" not in text


def test_stdin_is_read_within_bounds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"piped")))
    assert _run(monkeypatch, *ONCE, "-", "--json") == 0
    assert json.loads(capsys.readouterr().out)["answers"]["base"] == "base piped"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a" * (2**20 + 1))))
    assert _run(monkeypatch, *ONCE, "-", "--json") == 2
    assert "larger than 1,024 KiB" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b" \n", "holds no text"),
        (b"caf\xe9", "cannot be read"),
        (b"a" * (2**20 + 1), "cannot be read: larger than 1,024 KiB"),
        (None, "No such file"),
    ],
)
def test_a_file_of_no_use_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes | None,
    message: str,
) -> None:
    file = tmp_path / "mail.txt"
    if content is not None:
        file.write_bytes(content)
    assert _run(monkeypatch, *ONCE, str(file)) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert message in error
    assert Stand.requests == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--system", "Sum up."), "--system and --text belong together"),
        (("--text", "-"), "--system and --text belong together"),
        ((), "without a terminal, give the task with --system"),
        (("--json",), "without a terminal, give the task with --system"),
    ],
)
def test_what_is_missing_is_said(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    message: str,
) -> None:
    assert _run(monkeypatch, *options) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert Stand.requests == []
