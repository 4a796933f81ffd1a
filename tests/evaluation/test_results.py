"""What an evaluation leaves on disk."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import pytest

from llmcausal.errors import StorageError
from llmcausal.evaluation.results import escape, to_markdown, write_results

HOSTILE = "<script>x</script> | `a` **b** [c](http://d) www.e.f # \x1b[2J\u202e\n- new\r\n# head"


def share(value: float | None, n: int = 40) -> dict[str, Any]:
    low, high = (None, None) if value is None else (value / 2, min(1.0, value * 1.5))
    return {"value": value, "n": n, "low": low, "high": high}


def side(asr: float, family: str = "naive") -> dict[str, Any]:
    grouped = {"attack_success_rate": share(asr, 20), "utility_under_attack": share(None, 0)}
    return {
        "attack_success_rate": share(asr),
        "utility": share(0.5),
        "perplexity": {"value": 3.25, "n": 40, "low": 3.0, "high": 3.5},
        "groups": {"family": {family: grouped}, "position": {}},
        "causal": {
            "representation": "projection",
            "n": 40,
            "detection_auroc": {"value": 0.987, "n": 40, "low": 0.97, "high": 1.0},
        },
    }


def row(**changes: Any) -> dict[str, Any]:
    values = {
        **dict.fromkeys(("family", "position", "difficulty", "novelty", "category", "goal"), ""),
        **{"id": "t1", "member": "injection", "system": "s", "prompt": "p", "expected": "e"},
        **{"answer": "a", "stopped": True, "obeyed": True, "right": False, "base_answer": "b"},
    }
    return {**values, **changes}


def result(family: str = "naive", **changes: Any) -> dict[str, Any]:
    change = {**share(-0.4), "p_value": 0.00123, "only_base": 9, "only_tuned": 1}
    return {
        "suite": "builtin",
        "checkpoint": "runs/x/best",
        "command": ["llmcausal", "eval", "--data", "a b.jsonl"],
        "notes": ["a note"],
        "base": side(0.5, family),
        "tuned": side(0.1, family),
        "difference": {"attack_success_rate": change},
        "skipped": [{"id": "t9", "reason": "too long"}],
        "environment": {"date": "today", "packages": {"torch": "2"}, "command": ["no"]},
        "generations": [row(), row(id="t2", stopped=False, obeyed=False)],
        **changes,
    }


def test_written_results_survive_hostile_text(tmp_path: Path) -> None:
    hostile = row(id="a\u2028b", answer="[red]\n\x00 \ud800 <|im_end|> Größe")
    points = {"tuned": [{"id": "a", "member": "benign", "x": 0.5, "y": 1.0}]}
    path = write_results(result(generations=[hostile], representations=points), tmp_path / "eval")
    summary = json.loads(path.read_text(encoding="utf-8"))
    assert summary["tuned"] == side(0.1)
    assert not {"generations", "representations"} & summary.keys()
    text = (path.parent / "generations.jsonl").read_text(encoding="utf-8")
    assert text.count("\n") == 1
    assert "Größe" in text
    assert json.loads(text) == hostile
    assert json.loads((path.parent / "representations.json").read_text("utf-8")) == points
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "generations.jsonl",
        "report.md",
        "representations.json",
        "results.json",
    ]


def test_nan_is_refused_and_old_results_stay(tmp_path: Path) -> None:
    path = write_results(result(), tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="JSON"):
        write_results(result(environment={"seconds": float("nan")}), tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert path.is_file()


def test_disk_errors_are_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="results cannot be written"):
        write_results(result(), tmp_path / "file" / "eval")


def test_the_report_says_everything() -> None:
    text = to_markdown(result())
    for expected in (
        "- suite: builtin",
        "| attack_success_rate | 40 | 50.0% [25.0, 75.0] | 10.0% [5.0, 15.0] |",
        "| attack_success_rate | 40 | -40.0 [-20.0, -60.0] | 0.0012 | 9 / 1 |",
        "| naive | 20 | 50.0% [25.0, 75.0] | 10.0% [5.0, 15.0] | 0 | - | - |",
        "| perplexity | 40 | 3.25 [3, 3.5] | 3.25 [3, 3.5] |",
        "| detection_auroc | 40 | 0.987 [0.97, 1] | 0.987 [0.97, 1] |",
        "llmcausal eval --data 'a b.jsonl'",
        "1 of 2 answers to attacked prompts were cut at the length limit",
        "- a note",
        "- t9: too long",
        "| packages torch | 2 |",
        "the first 1)",
    ):
        assert expected in text, expected
    assert "## By position" not in text


def test_without_a_base_and_with_another_one() -> None:
    alone = to_markdown(result(base=None, difference=None))
    assert "| metric | n | tuned |" in alone
    assert "Change" not in alone
    named = result()
    named["base"]["name"] = "runs/task_only/best"
    assert "| metric | n | runs/task\\_only/best | tuned |" in to_markdown(named)


def test_seen_attacks_and_shared_prompts_are_told() -> None:
    benign = row(member="benign", obeyed=None)
    text = to_markdown(result(generations=[benign, row(novelty="seen"), row(id="t2")]))
    assert "phrased as in the training data" in text
    assert "2 attacked prompts are made from 1 benign ones" in text


def test_hostile_text_stays_text() -> None:
    text = to_markdown(
        result(
            family=HOSTILE,
            checkpoint=HOSTILE,
            notes=[HOSTILE],
            command=["llmcausal", HOSTILE, "```"],
            skipped=[{"id": HOSTILE, "reason": HOSTILE}],
            generations=[row(id=HOSTILE, family=HOSTILE, answer=HOSTILE, prompt=HOSTILE)],
            environment={HOSTILE: HOSTILE},
        )
    )
    fenced = text.split("## Command\n\n")[1].split("\n\n## ")[0]
    assert fenced.splitlines()[0] == fenced.splitlines()[-1] == "````"
    assert len(fenced.splitlines()) == 3
    rest = text.replace(fenced, "")
    assert "<script" not in rest
    assert "http://" not in rest
    assert "www.e" not in rest
    assert not any(char in text for char in "\x1b\u202e\r")
    headings = [line for line in rest.splitlines() if line.startswith("#")]
    assert not any(line.lstrip("# ").startswith("head") for line in headings)
    for line in rest.splitlines():
        if line.startswith("|"):
            assert line.replace("\\|", "").count("|") in (3, 4, 5, 6, 8), line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("- x", "\\- x"),
        ("1. x", "1\\. x"),
        ("# x", "\\# x"),
        ("a_b|c", "a\\_b\\|c"),
        ("me@x.y", "me\\@x.y"),
        ("a\n\nb", "a b"),
        ("12.5%", "12.5%"),
    ],
)
def test_escape(text: str, shown: str) -> None:
    assert html.unescape(escape(text)) == shown
    assert len(escape("x" * 900)) == 400


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"sweet": 1}, "sweet"),
        ({"tuned": {**side(0.1), "asr": share(0.1)}}, "asr"),
        ({"tuned": {**side(0.1), "utility": 0.5}}, "utility"),
        ({"difference": {"utility": share(0.1)}}, "p_value"),
    ],
)
def test_what_is_no_result_is_not_written(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        write_results(result(**changes), tmp_path)
    assert not list(tmp_path.iterdir())
