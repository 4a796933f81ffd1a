from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from llmcausal.cli import app
from llmcausal.config import RunConfig
from llmcausal.diagnostics import doctor
from llmcausal.diagnostics.check import Check
from llmcausal.errors import ModelError
from llmcausal.profile import dump_config


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["llmcausal", "doctor", *arguments])
    with pytest.raises(SystemExit) as stopped:
        app.main()
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


@pytest.fixture
def profile(config: RunConfig, tmp_path: Path) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(dump_config(config))
    return str(path)


def test_every_check_passes_on_a_sound_profile(config: RunConfig) -> None:
    checks = doctor.diagnose(config)
    assert [check.name for check in checks] == [name for name, _ in doctor.CHECKS]
    assert [check for check in checks if check.status != "pass"] == []
    assert all("\n" not in check.detail for check in checks)


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (ModelError("no\nmodel"), "no model"),
        (RuntimeError("boom"), "could not be checked: RuntimeError: boom"),
    ],
)
def test_a_check_that_raises_does_not_hide_the_next(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, error: Exception, detail: str
) -> None:
    def raises(_: RunConfig) -> Check:
        raise error

    table = (("first", raises), ("second", lambda _: Check("second", "pass", "fine")))
    monkeypatch.setattr(doctor, "CHECKS", table)
    first, second = doctor.diagnose(config)
    assert (first.name, first.status, first.detail) == ("first", "fail", detail)
    assert first.fix
    assert second.status == "pass"


def test_the_command_prints_one_line_a_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], profile: str
) -> None:
    table = (
        ("one", lambda _: Check("one", "pass", "[bold]fine[/bold]")),
        ("two", lambda _: Check("two", "warning", "meh", "do x")),
    )
    monkeypatch.setattr(doctor, "CHECKS", table)
    assert _run(monkeypatch, profile) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["pass", "one", "[bold]fine[/bold]"],
        ["warning", "two", "meh", "->", "do", "x"],
    ]


def test_a_failed_check_ends_with_1_and_json_holds_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], profile: str
) -> None:
    def chatty(_: RunConfig) -> Check:
        print("a library prints something")
        return Check("two", "fail", "bad", "do x")

    table = (("one", lambda _: Check("one", "pass", "fine")), ("two", chatty))
    monkeypatch.setattr(doctor, "CHECKS", table)
    assert _run(monkeypatch, profile, "--json") == 1
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {
        "profile": profile,
        "ok": False,
        "checks": [
            {"name": "one", "status": "pass", "detail": "fine", "fix": ""},
            {"name": "two", "status": "fail", "detail": "bad", "fix": "do x"},
        ],
    }
