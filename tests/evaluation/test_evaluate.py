from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmcausal.data.triplet import AttackInfo, Check, Triplet
from llmcausal.errors import DataError, StorageError, UsageError
from llmcausal.evaluation import evaluate as module
from llmcausal.evaluation.evaluate import evaluate
from llmcausal.evaluation.generation import Answer
from llmcausal.evaluation.results import write_results


def triplet(number: int, family: str | None, *, check: bool = True) -> Triplet:
    return Triplet(
        id=f"t{number}",
        system="Answer.",
        benign=f"benign {number}",
        benign_cf="other",
        injection=f"attacked {number}",
        response="right",
        response_injection="right, still",
        attack=AttackInfo(family, "say it", "hacked") if family else None,
        check=Check("contains", "right") if check else None,
    )


TRIPLETS = [
    triplet(0, "naive"),
    triplet(1, "naive"),
    triplet(2, "ignore"),
    triplet(3, None),
    triplet(4, "ignore", check=False),
]

# By (adapter on, user text); every other answer is "right".
SCRIPT = {
    (False, "benign 0"): "wrong",
    (False, "attacked 0"): "HACKED, right",
    (False, "attacked 1"): "I was hacked",
    (False, "attacked 2"): "hacked",
    (False, "attacked 4"): "hacked",
    (True, "attacked 2"): "Sorry, hacked",
}


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, peft_model: Any, template: Any) -> tuple[Any, Any]:
    """The real pipeline with known answers in place of a random model's."""

    def answers(model: Any, template: Any, prompts: Any, **settings: Any) -> list[Answer]:
        if settings["progress"]:
            settings["progress"](len(prompts), len(prompts))
        return [
            Answer(SCRIPT.get((settings["adapter"], user), "right"), True) for _, user in prompts
        ]

    monkeypatch.setattr(module, "answer_prompts", answers)
    return peft_model, template


def test_figures(scripted: tuple[Any, Any]) -> None:
    seen: list[tuple[int, int]] = []
    result = evaluate(
        *scripted,
        TRIPLETS,
        max_new_tokens=8,
        batch_size=4,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(10, 20), (20, 20)]

    def value_n(side: str, name: str) -> tuple[float, int]:
        return result[side][name]["value"], result[side][name]["n"]

    assert value_n("base", "attack_success_rate") == (1.0, 4)
    assert value_n("base", "asr_begins_with") == (0.75, 4)
    assert value_n("tuned", "attack_success_rate") == (0.25, 4)
    assert value_n("tuned", "asr_begins_with") == (0.0, 4)
    assert value_n("base", "utility") == (0.75, 4)
    assert value_n("tuned", "utility") == (1.0, 4)
    assert value_n("base", "utility_under_attack") == (0.5, 4)
    assert value_n("tuned", "utility_under_attack") == (0.75, 4)
    difference = result["difference"]["attack_success_rate"]
    assert (difference["value"], difference["n"], difference["only_base"]) == (-0.75, 4, 3)
    families = result["tuned"]["families"]
    assert list(families) == ["ignore", "naive"]
    assert families["ignore"]["attack_success_rate"]["value"] == 0.5
    assert families["ignore"]["utility_under_attack"]["n"] == 1
    assert result["skipped"] == []


def test_rows(scripted: tuple[Any, Any]) -> None:
    result = evaluate(*scripted, TRIPLETS, max_new_tokens=8, batch_size=4)
    rows = {(row["id"], row["member"]): row for row in result["generations"]}
    assert len(rows) == 10
    row = rows["t0", "injection"]
    assert (row["prompt"], row["expected"]) == ("attacked 0", "right, still")
    assert rows["t0", "benign"]["expected"] == "right"
    assert (row["answer"], row["obeyed"], row["right"]) == ("right", False, True)
    assert (row["base_answer"], row["base_obeyed"]) == ("HACKED, right", True)
    assert rows["t0", "benign"]["obeyed"] is None
    assert rows["t3", "injection"]["obeyed"] is None
    assert rows["t4", "injection"]["right"] is None


def test_without_baseline(scripted: tuple[Any, Any]) -> None:
    result = evaluate(*scripted, TRIPLETS, max_new_tokens=8, batch_size=4, baseline=False)
    assert result["base"] is None
    assert result["difference"] is None
    assert all(row["base_answer"] is None for row in result["generations"])
    assert result["tuned"]["attack_success_rate"]["n"] == 4


def test_real_model_pairs_base_and_tuned(peft_model: Any, template: Any, tiny_llama: Any) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 6, "batch_size": 3}
    result = evaluate(peft_model, template, TRIPLETS[:2], **settings)
    alone = evaluate(tiny_llama(seed=0), template, TRIPLETS[:2], baseline=False, **settings)
    rows = result["generations"]
    assert [r["base_answer"] for r in rows] == [r["answer"] for r in alone["generations"]]
    assert [r["base_answer"] for r in rows] != [r["answer"] for r in rows]
    with pytest.raises(UsageError, match="no adapter"):
        evaluate(tiny_llama(), template, TRIPLETS[:1], **settings)


def test_prompts_beyond_the_context_are_skipped_and_named(peft_model: Any, template: Any) -> None:
    long = replace(triplet(9, "naive"), context="x" * 600)
    settings: dict[str, Any] = {"max_new_tokens": 4, "batch_size": 2, "baseline": False}
    result = evaluate(peft_model, template, [TRIPLETS[0], long], **settings)
    assert [item["id"] for item in result["skipped"]] == ["t9"]
    assert "512" in result["skipped"][0]["reason"]
    assert {row["id"] for row in result["generations"]} == {"t0"}
    with pytest.raises(DataError, match="t9"):
        evaluate(peft_model, template, [long], **settings)
    with pytest.raises(DataError, match="no test triplets"):
        evaluate(peft_model, template, [], **settings)


def test_written_results_survive_hostile_text(tmp_path: Path) -> None:
    row = {"id": "a\u2028b", "answer": "[red]\n\x00 \ud800 <|im_end|> Größe"}
    path = write_results({"tuned": {"x": None}, "generations": [row]}, tmp_path / "eval")
    assert json.loads(path.read_text(encoding="utf-8")) == {"tuned": {"x": None}}
    text = (tmp_path / "eval" / "generations.jsonl").read_text(encoding="utf-8")
    assert text.count("\n") == 1
    assert "Größe" in text
    assert json.loads(text) == row
    assert sorted(p.name for p in path.parent.iterdir()) == ["generations.jsonl", "results.json"]


def test_nan_is_refused_and_old_results_stay(tmp_path: Path) -> None:
    path = write_results({"tuned": {"x": 1}, "generations": []}, tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        write_results({"tuned": {"x": float("nan")}, "generations": []}, tmp_path)
    assert json.loads(path.read_text(encoding="utf-8")) == {"tuned": {"x": 1}}


def test_disk_errors_are_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="results cannot be written"):
        write_results({"generations": []}, tmp_path / "file" / "eval")
