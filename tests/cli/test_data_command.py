from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from llmcausal.assembly import prepare
from llmcausal.cli import app
from llmcausal.data.builtin import generate
from llmcausal.data.formats import read_triplets


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["llmcausal", "data", *arguments])
    with pytest.raises(SystemExit) as stopped:
        app.main()
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    out = tmp_path / "train.jsonl"
    arguments = ("--split", "train", "--count", "6", "--seed", "3", "--out", str(out))
    assert _run(monkeypatch, "build", *arguments) == 0
    return out


def test_what_build_writes_reads_back_as_it_was_made(file: Path) -> None:
    assert read_triplets(file) == generate("train", 6, 3)


def test_build_never_overwrites(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = file.read_bytes()
    arguments = ("--split", "test", "--count", "1", "--out", str(file))
    assert _run(monkeypatch, "build", *arguments) == 2
    assert f"{file} exists" in capsys.readouterr().err
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("split", "name", "message"),
    [
        ("trian", "a.jsonl", "unknown split 'trian'"),
        ("train", "a.csv", "name the file a.jsonl"),
        ("train", "none/a.jsonl", "cannot be written"),
    ],
)
def test_build_says_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    split: str,
    name: str,
    message: str,
) -> None:
    arguments = ("--split", split, "--count", "2", "--out", str(tmp_path / name))
    assert _run(monkeypatch, "build", *arguments) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_validate_counts_sound_triplets(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, "validate", str(file)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{file}: 6 triplets, no defect"


def test_validate_names_every_defect(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = file.read_text().splitlines()
    first = json.loads(lines[0])
    del first["benign_cf"]
    lines[0] = json.dumps(first)
    lines[3] = "{not json"
    lines[5] = lines[4]
    file.write_text("\n".join(lines))
    assert _run(monkeypatch, "validate", str(file)) == 2
    shown = capsys.readouterr()
    assert "no defect" not in shown.out
    for start in (f"{file}:1: benign_cf: ", f"{file}:4: line: not JSON", f"{file}:6: id: "):
        assert start in shown.err


class _Words:
    """A template that counts words, so that the test knows the lengths."""

    def encode_prompt(self, system: str, user: str) -> list[int]:
        return [0] * (len(system.split()) + len(user.split()))

    def encode_response(self, response: str) -> list[int]:
        return [0] * len(response.split())

    def count_tokens(self, text: str) -> int:
        return len(text.split())


@pytest.mark.parametrize(("limit", "message"), [(400, "every triplet fits"), (16, "6 of 6")])
def test_validate_with_a_profile_tells_what_is_too_long(
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    limit: int,
    message: str,
) -> None:
    profile = tmp_path / "mine.toml"
    profile.write_text(f"[data]\nmax_length = {limit}\n")
    monkeypatch.setattr(prepare, "load_template", lambda _: _Words())
    assert _run(monkeypatch, "validate", str(file), "--model", str(profile)) == 0
    assert message in capsys.readouterr().out


def test_stats_counts_and_measures(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, "stats", str(file)) == 0
    shown = capsys.readouterr().out
    assert "6 triplets, 6 with an answer check, 6 with an attack witness" in " ".join(shown.split())
    triplets = read_triplets(file)
    for family in {t.attack.family for t in triplets if t.attack}:
        assert family in shown
    longest = max(len(t.injection) for t in triplets)
    assert any("injection" in line and str(longest) in line for line in shown.splitlines())


def test_stats_shows_hostile_names_as_text(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = json.loads(file.read_text().splitlines()[0])
    record["category"] = "[red]x[/red]\x1b[2J"
    file.write_text(json.dumps(record))
    assert _run(monkeypatch, "stats", str(file)) == 0
    shown = capsys.readouterr().out
    assert "[red]x[/red]" in shown
    assert "\x1b" not in shown
