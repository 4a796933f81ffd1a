"""How failures leave the program: one message on stderr, the contract's exit code, no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llmcausal import errors
from llmcausal.assembly import training
from llmcausal.cli import app

DATA_ERROR = errors.DataError(["a.jsonl:3: benign: is missing", "a.jsonl:9: id: is not unique"])


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["llmcausal", *arguments])
    with pytest.raises(SystemExit) as stopped:
        app.main()
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLMCAUSAL_DEBUG", raising=False)


def _train_raises(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def train(_: object) -> None:
        raise error

    monkeypatch.setattr(training, "train", train)


@pytest.mark.usefixtures("failing")
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError("no"), 2),
        (errors.ConfigError("no"), 2),
        (errors.ModelError("no"), 2),
        (errors.CheckpointError("no"), 2),
        (errors.StorageError("no"), 2),
        (errors.EndpointError("no"), 2),
        (DATA_ERROR, 2),
        (errors.DoesNotFitError("no"), 3),
        (errors.OutOfMemoryError("no"), 4),
        (errors.NonFiniteLossError("no"), 5),
        (errors.LimitCrossedError("no"), 6),
        (errors.Interrupted("saved", signal.SIGINT), 130),
        (errors.Interrupted("saved", signal.SIGTERM), 143),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_every_error_has_its_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
) -> None:
    _train_raises(monkeypatch, error)
    assert _run(monkeypatch, "train", "demo-cpu") == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Traceback" not in shown.err
    assert str(error) in shown.err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends the process")
def test_sigterm_before_the_first_step_releases_what_the_run_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released = []

    def train(_: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            released.append(True)

    monkeypatch.setattr(training, "train", train)
    before = signal.getsignal(signal.SIGTERM)
    assert _run(monkeypatch, "train", "demo-cpu") == 143
    assert released
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.usefixtures("failing")
def test_every_defect_is_shown_on_its_own_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _train_raises(monkeypatch, DATA_ERROR)
    _run(monkeypatch, "train", "demo-cpu")
    lines = capsys.readouterr().err.splitlines()
    assert lines[-2:] == DATA_ERROR.defects


@pytest.mark.usefixtures("failing")
def test_hostile_text_in_a_message_is_only_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _train_raises(monkeypatch, errors.DataError(["f:1: id: [red]x[/red] [/nope] \x1b[2J"]))
    assert _run(monkeypatch, "train", "demo-cpu") == 2
    shown = capsys.readouterr().err
    assert "[red]x[/red] [/nope]" in shown
    assert "\x1b" not in shown


@pytest.mark.usefixtures("failing")
def test_an_unexpected_error_says_that_it_is_a_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _train_raises(monkeypatch, ZeroDivisionError("by zero"))
    assert _run(monkeypatch, "train", "demo-cpu") == 1
    shown = capsys.readouterr().err
    assert "by zero" in shown
    assert "ZeroDivisionError" in shown
    assert "This is a bug" in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("how", ["flag", "environment"])
def test_debug_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    monkeypatch.setenv("LLMCAUSAL_DEBUG", "1" if how == "environment" else "0")
    _train_raises(monkeypatch, ZeroDivisionError("by zero"))
    flag = ["--debug"] if how == "flag" else []
    assert _run(monkeypatch, "train", "demo-cpu", *flag) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.usefixtures("failing")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tran"], "No such command 'tran'; did you mean train?"),
        (["train"], "Missing argument 'PROFILE'"),
        (["train", "demo-cpu", "--sett", "a=1"], "--sett"),
        (["eval"], "give --checkpoint DIR, or --endpoint URL"),
        (["export", "--checkpoint", "x", "--out", "y"], "Missing option '--format'"),
        (["data", "build", "--split", "train", "--count", "0", "--out", "x"], "--count"),
        (["train", "demo_cpu"], "demo_cpu: no such profile; did you mean demo-cpu?"),
        (["train", "demo-cpu", "--set", "train.epoch=1"], "did you mean epochs"),
        (["doctor", "nowhere.toml"], "nowhere.toml: no such profile"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_usage_ends_with_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert _run(monkeypatch, *arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err
    assert "Traceback" not in shown.err


def test_a_typo_in_a_profile_gives_one_line(tmp_path: Path) -> None:
    profile = tmp_path / "mine.toml"
    profile.write_text("[train]\nlearning_rat = 1\n")
    done = subprocess.run(
        [sys.executable, "-m", "llmcausal", "train", str(profile)], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert f"error: {profile}:2: train.learning_rat: unknown key; did you mean" in done.stderr


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["train", "--help"]])
def test_a_reader_that_goes_away_ends_the_program_quietly(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "llmcausal", *arguments],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 1


def test_version_is_printed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llmcausal", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("llmcausal 0.")
