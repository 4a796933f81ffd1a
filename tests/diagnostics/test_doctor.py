from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from rich.console import Console

from llmcausal import diagnostics
from llmcausal.cli import app
from llmcausal.config import RunConfig
from llmcausal.diagnostics.check import DoctorCheck, DoctorReport, Facts, Finding, json_schema
from llmcausal.errors import ModelError
from llmcausal.profile import dump_config
from llmcausal.ui.checks import show_checks

Make = Callable[..., Facts]
SCHEMA = Path(__file__).parents[2] / "docs" / "doctor.schema.json"


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["llmcausal", "doctor", *arguments])
    with pytest.raises(SystemExit) as stopped:
        app.main()
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def _diagnose(facts: Facts) -> list[DoctorCheck]:
    return list(diagnostics.diagnose(facts, lambda _what: nullcontext()))


@pytest.fixture
def profile(config: RunConfig, tmp_path: Path) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(dump_config(config))
    return str(path)


GPU_ONLY = {"GPU memory", "precision", "attention", "full GPU", "pinned memory"}


def test_every_check_passes_on_a_sound_profile(on_cpu: Make) -> None:
    checks = _diagnose(on_cpu())
    expected = [name for name, _ in diagnostics.CHECKS if name not in GPU_ONLY]
    assert [check.name for check in checks] == expected
    assert [check for check in checks if check.status != "pass"] == []
    assert all("\n" not in check.detail and not check.fix for check in checks)


def test_what_is_under_way_is_shown_until_it_is_done(
    on_cpu: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    @contextmanager
    def watch(what: str) -> Iterator[None]:
        seen.append(what)
        yield
        seen.append("done")

    table = (("one", lambda _: Finding("pass", "")), ("none", lambda _: None))
    monkeypatch.setattr(diagnostics, "CHECKS", table)
    assert len(list(diagnostics.diagnose(on_cpu(), watch))) == 1
    assert seen == ["Checking one", "done", "Checking none", "done"]


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (ModelError("no\nmodel"), "no model"),
        (RuntimeError("boom"), "could not be checked: RuntimeError: boom"),
    ],
)
def test_a_check_that_raises_does_not_hide_the_next(
    on_cpu: Make, monkeypatch: pytest.MonkeyPatch, error: Exception, detail: str
) -> None:
    def raises(_: Facts) -> Finding:
        raise error

    table = (("first", raises), ("second", lambda _: Finding("pass", "fine")))
    monkeypatch.setattr(diagnostics, "CHECKS", table)
    first, second = _diagnose(on_cpu())
    assert (first.name, first.status, first.detail) == ("first", "fail", detail)
    assert first.fix
    assert second.status == "pass"


def test_without_torch_every_check_still_runs(
    on_cpu: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name == "torch" or name.startswith("torch.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    checks = {c.name: c for c in _diagnose(on_cpu(torch=None, torch_problem="OSError: broken"))}
    assert checks["torch"].detail == "torch cannot be imported: OSError: broken"
    assert checks["device"].fix == checks["bitsandbytes"].fix == "fix torch first"
    assert checks["python"].status == "pass"


def test_the_command_prints_one_line_a_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], profile: str
) -> None:
    table = (
        ("one", lambda _: Finding("pass", "[bold]fine[/bold]")),
        ("two", lambda _: Finding("warning", "meh\x1b[2J " * 20, "do x")),
    )
    monkeypatch.setattr(diagnostics, "CHECKS", table)
    assert _run(monkeypatch, profile) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert [line.split() for line in lines] == [
        ["pass", "one", "[bold]fine[/bold]"],
        ["warning", "two", *["meh[2J"] * 20, "->", "do", "x"],
    ]
    assert shown.err == ""


def test_a_terminal_gets_columns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "screen").open("w+") as file:
        terminal = Console(file=file, width=40, force_terminal=True, color_system=None)
        monkeypatch.setattr("llmcausal.ui.checks.console", lambda: terminal)
        check = DoctorCheck("two", "warning", "many words that are broken here", "do x")
        assert show_checks([check]) == [check]
        file.seek(0)
        assert [line.rstrip() for line in file.read().splitlines()] == [
            "warning two            many words that",
            "                       are broken here",
            "                       -> do x",
        ]


def test_a_failed_check_ends_with_1_and_json_holds_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], profile: str
) -> None:
    def chatty(_: Facts) -> Finding:
        print("a library prints something")
        return Finding("fail", "bad", "do x")

    table = (("one", lambda _: Finding("pass", "fine")), ("two", chatty))
    monkeypatch.setattr(diagnostics, "CHECKS", table)
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


def test_the_committed_schema_is_current() -> None:
    assert json.loads(SCHEMA.read_text()) == json_schema(), "run `make schema`"


def _matches(value: Any, schema: dict[str, Any], whole: dict[str, Any]) -> bool:
    """Validates by the few words of JSON Schema that the file uses, whatever pydantic thinks."""
    if "$ref" in schema:
        schema = whole["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    if schema["type"] == "object":
        return (
            schema["additionalProperties"] is False
            and set(value) == set(schema["properties"]) == set(schema["required"])
            and all(_matches(value[key], part, whole) for key, part in schema["properties"].items())
        )
    if schema["type"] == "array":
        return all(_matches(entry, schema["items"], whole) for entry in value)
    kind = {"string": str, "boolean": bool}[schema["type"]]
    return isinstance(value, kind) and value in schema.get("enum", [value])


def test_real_output_is_as_the_committed_schema_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], profile: str
) -> None:
    code = _run(monkeypatch, profile, "--json")
    printed = json.loads(capsys.readouterr().out)
    assert code == (0 if printed["ok"] else 1)
    schema = json.loads(SCHEMA.read_text())
    assert _matches(printed, schema, schema)
    assert len(printed["checks"]) > 10
    report = TypeAdapter(DoctorReport).validate_python(printed)
    assert report.ok == all(check.status != "fail" for check in report.checks)
    assert not _matches({**printed, "more": 1}, schema, schema)
    assert not _matches({**printed, "checks": [{"name": "x"}]}, schema, schema)
