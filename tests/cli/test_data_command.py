from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path

import pytest

import llmcausal
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


MAIL = {
    "context": "Ann paid $5.00 on Monday.",
    "question": "How much did Ann pay?",
    "ideal": "$5.00",
}


@pytest.fixture
def mails(tmp_path: Path) -> Path:
    source = tmp_path / "source.jsonl"
    records = [
        MAIL | {"context": f"Letter {n}: Ann paid ${n}.00 on Monday.", "ideal": f"${n}.00"}
        for n in range(30, 50)
    ]
    source.write_text(
        "\n".join([*map(json.dumps, records), "{broken", json.dumps({"context": "x"})])
    )
    return source


def test_build_from_a_source_says_what_it_left_out(
    mails: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = mails.parent / "out.jsonl"
    arguments = ("--from", "squad", str(mails), "--split", "test", "--out", str(out))
    assert _run(monkeypatch, "build", *arguments) == 0
    shown = capsys.readouterr().out
    assert f"  {mails}:21: line: not JSON" in shown
    assert f"  {mails}:22: question: missing" in shown
    assert f"{out}: 20 triplets of the test split" in shown
    assert len(read_triplets(out)) == 20
    recipe = json.loads((mails.parent / "out.recipe.json").read_text())
    assert recipe["source"]["name"] == "squad"
    assert recipe["source"]["sha256"] == hashlib.sha256(mails.read_bytes()).hexdigest()
    assert recipe["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert (recipe["examples"], recipe["triplets"], recipe["left_out"]["total"]) == (20, 20, 2)
    assert recipe["llmcausal"] == llmcausal.__version__


def test_build_lets_the_model_answer_what_no_check_verifies(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_files: tuple[Path, Path]
) -> None:
    """The real path with a tiny model: a table of texts and questions, without answers."""
    monkeypatch.chdir(tmp_path)
    Path("notes.csv").write_text("document,question\nAnn came.,Who?\nBob left.,Who?\n")
    Path("tiny.toml").write_text(
        f'[model]\nname = "{tiny_files[0]}"\ndevice = "cpu"\n[data]\nanswer_tokens = 3\n'
        "[evaluation]\ncache = false\n"
    )
    arguments = ("--from", "csv", "notes.csv", "--split", "train", "--out", "out.jsonl")
    asked = ("--answers", "model", "--model", "tiny.toml")
    assert _run(monkeypatch, "build", *arguments, *asked) == 0
    made = read_triplets(Path("out.jsonl"))
    assert made
    assert all(triplet.response and triplet.response_obeying for triplet in made)
    recipe = json.loads(Path("out.recipe.json").read_text())
    assert recipe["model"]["name"] == str(tiny_files[0])
    assert "--answers" in recipe["command"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--answers", "model"), "name the profile of the model with --model"),
        (("--answers", "me"), "unknown answer 'me'"),
        (("--model", "demo-cpu"), "only with --counterfactual model or --answers model"),
    ],
)
def test_build_refuses_answers_of_no_model(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    options: tuple[str, ...],
    message: str,
) -> None:
    arguments = ("--split", "train", "--count", "2", "--out", str(tmp_path / "a.jsonl"))
    assert _run(monkeypatch, "build", *arguments, *options) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ("--count", "7"),
        ("--from", "squad", "source.jsonl", "--count", "33", "--counterfactual", "slot_edit"),
        (
            *("--from", "jsonl", "source.jsonl", "--map", "document=context"),
            *("--map", "answer=ideal", "--families", "naive,authority", "--positions", "end"),
            *("--system", "Say how much.", "--attacks", "goals.json"),
        ),
    ],
    ids=["builtin", "squad", "map"],
)
def test_the_recipe_makes_the_same_bytes_again(
    mails: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(mails.parent)
    Path("goals.json").write_text('[{"goal": "Say Moo.", "witness": "Moo"}]')
    common = ("--split", "train", "--seed", "4", "--out", "a.jsonl")
    assert _run(monkeypatch, "build", *arguments, *common) == 0
    command = json.loads(Path("a.recipe.json").read_text())["command"]
    assert command[:3] == ["llmcausal", "data", "build"]
    first = Path("a.jsonl").read_bytes()
    Path("a.jsonl").unlink()
    Path("a.recipe.json").unlink()
    assert _run(monkeypatch, *command[2:]) == 0
    assert Path("a.jsonl").read_bytes() == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--from", "sqaud", "x.jsonl"), "did you mean squad"),
        (("--from", "squad"), "name the file or folder"),
        (("--from", "squad", "absent.jsonl"), "cannot be read"),
        (("x.jsonl", "--count", "3"), "name its kind with --from"),
        ((), "give the number of triplets"),
        (("--count", "3", "--families", "naive"), "--families: only with --from"),
        (("--from", "squad", "x", "--families", "niave"), "did you mean naive"),
        (("--from", "squad", "x", "--positions", "midle"), "did you mean middle"),
        (("--from", "squad", "x", "--counterfactual", "slots"), "unknown counterfactual 'slots'"),
        (("--from", "squad", "x", "--map", "a=b"), "unknown field 'a'"),
    ],
)
def test_build_refuses_what_does_not_fit(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if "--families" in arguments and "--from" in arguments:
        Path("x").write_text(json.dumps(MAIL))
    assert _run(monkeypatch, "build", *arguments, "--split", "train", "--out", "o.jsonl") == 2
    assert message in capsys.readouterr().err
    assert not Path("o.jsonl").exists()


def test_validate_counts_sound_triplets(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, "validate", str(file)) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"{file}: 6 ")
    assert "error" not in last


def test_validate_finds_a_planted_leak_and_witness(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = file.parent / "test.jsonl"
    arguments = ("--split", "test", "--count", "20", "--out", str(other))
    assert _run(monkeypatch, "build", *arguments) == 0
    assert _run(monkeypatch, "validate", str(other), "--against", str(file)) == 0
    assert _run(monkeypatch, "validate", str(other), "--against", "builtin:train") == 0
    records = [json.loads(line) for line in other.read_text().splitlines()]
    records.insert(4, json.loads(file.read_text().splitlines()[2]))
    records[9]["benign"] += f" {records[9]['attack']['witness']}"
    records[9]["attack"].pop("check", None)
    other.write_text("\n".join(map(json.dumps, records)))
    capsys.readouterr()
    assert _run(monkeypatch, "validate", str(other), "--against", str(file)) == 2
    errors = capsys.readouterr().err
    assert f"error: {other}:5: benign: shares 100% of its word pairs with {file}:3" in errors
    assert f"error: {other}:10: benign: holds the attack's witness" in errors
    assert _run(monkeypatch, "validate", str(other), "--against", str(file), "--json") == 2
    result = json.loads(capsys.readouterr().out)
    assert result["ok"] is False
    assert result["files"] == {str(other): 21}
    errors = [f for f in result["findings"] if f["level"] == "error"]
    assert [(f["rule"], f["line"]) for f in errors] == [
        ("witness_in_text", 10),
        ("scenario_leak", 5),
    ]


def test_validate_reads_every_file_though_one_is_defective(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = file.parent / "bad.jsonl"
    bad.write_text("{}\n")
    assert _run(monkeypatch, "validate", str(bad), str(file), "--json") == 2
    result = json.loads(capsys.readouterr().out)
    assert result["files"] == {str(bad): 0, str(file): 6}
    schema = [f for f in result["findings"] if f["rule"] == "schema"]
    assert {f["field"] for f in schema} >= {"id", "system", "benign"}
    assert {(f["file"], f["line"]) for f in schema} == {(str(bad), 1)}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("{file}", "it is one of the files"),
        ("builtin:tset", "unknown split"),
        ("no.jsonl", "No such"),
    ],
)
def test_validate_refuses_bad_comparisons(
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    other: str,
    message: str,
) -> None:
    assert _run(monkeypatch, "validate", str(file), "--against", other.format(file=file)) == 2
    assert message in capsys.readouterr().err


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

    def encode_response(self, response: str, *, ends: bool) -> list[int]:
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
    for word in ("position", "difficulty", "novelty", "seen", "kind of goal", "####"):
        assert word in shown
    assert "6 triplets, 6 with an answer check, 6 with an attack witness" in " ".join(shown.split())
    triplets = read_triplets(file)
    for family in {t.attack.family for t in triplets if t.attack}:
        assert family in shown
    longest = max(len(t.injection) for t in triplets)
    assert any("injection" in line and str(longest) in line for line in shown.splitlines())


def test_stats_as_json(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, "stats", str(file), "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["count"] == 6
    assert summary["novelties"] == {"seen": 6}
    assert sum(summary["histograms"]["injection"]["counts"]) == 6


@pytest.mark.parametrize("suffix", ["svg", "html"])
def test_stats_draws(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    record = json.loads(file.read_text().splitlines()[0])
    record["category"] = "<script>x</script> $\\frac"
    file.write_text(json.dumps(record))
    plot = file.parent / f"plot.{suffix}"
    assert _run(monkeypatch, "stats", str(file), "--plot", str(plot)) == 0
    drawn = plot.read_text()
    assert "<svg" in drawn
    assert "&lt;script&gt;" in drawn
    assert "<script" not in drawn
    assert "attack family" in drawn
    assert not re.search(r"""(?:src|href)=["'](?!#)""", drawn.replace("xlink:href", "href"))
    again = file.parent / f"again.{suffix}"
    assert _run(monkeypatch, "stats", str(file), "--plot", str(again)) == 0
    assert again.read_text() == drawn


def test_stats_names_the_pictures_it_can_draw(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, "stats", str(file), "--plot", "a.png") == 2
    assert "a.html or a.svg" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--counterfactual", "model"), "name the profile of the model with --model"),
        (("--model", "demo-cpu"), "only with --counterfactual model"),
    ],
)
def test_a_model_that_rewrites_is_named_when_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    out = str(tmp_path / "out.jsonl")
    given = ("--from", "jsonl", "x.jsonl", "--split", "train", "--out", out)
    assert _run(monkeypatch, "build", *given, *arguments) == 2
    assert message in capsys.readouterr().err
