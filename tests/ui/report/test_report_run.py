from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmcausal.errors import UsageError
from llmcausal.ui.report import write_run_report
from llmcausal.ui.report.run_files import read_run

Values = dict[str, Any]


def lay(folder: Path, result: Values) -> None:
    """Writes an evaluation as `write_results` does."""
    folder.mkdir(parents=True)
    apart = ("generations", "representations")
    summary = {key: value for key, value in result.items() if key not in apart}
    (folder / "results.json").write_text(json.dumps(summary), "utf-8")
    (folder / "representations.json").write_text(json.dumps(result["representations"]), "utf-8")
    lines = "".join(json.dumps(row) + "\n" for row in result["generations"])
    (folder / "generations.jsonl").write_text(lines, "utf-8")


@pytest.fixture
def run_dir(tmp_path: Path, result: Values, metrics_rows: list[Values]) -> Path:
    folder = tmp_path / "demo-run"
    folder.mkdir()
    (folder / "config.toml").write_text('name = "demo-run"\n', "utf-8")
    (folder / "environment.json").write_text(json.dumps(result["environment"]), "utf-8")
    lines = "".join(json.dumps(row) + "\n" for row in metrics_rows)
    (folder / "metrics.jsonl").write_text(lines, "utf-8")
    lay(folder / "evaluation", result)
    return folder


def test_a_whole_run_is_read_back(
    run_dir: Path, result: Values, metrics_rows: list[Values]
) -> None:
    run = read_run(run_dir)
    assert run.result == result
    assert run.metrics_rows == metrics_rows
    assert run.config_text == 'name = "demo-run"\n'
    assert run.environment == result["environment"]
    assert run.notes == []


def test_the_report_goes_into_the_run_directory(run_dir: Path) -> None:
    out = write_run_report(run_dir)
    assert out == run_dir / "report.html"
    assert "<bdi>demo-run</bdi>" in out.read_text("utf-8")


def test_a_run_under_way_is_reported_with_what_is_missing(run_dir: Path) -> None:
    for file in (run_dir / "evaluation").iterdir():
        file.unlink()
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 91, "lo')  # a row half written
    run = read_run(run_dir)
    assert run.result is None
    assert len(run.metrics_rows) == 91
    assert [note for note in run.notes if "results.json is not there" in note]
    assert "Nothing has been evaluated yet" in write_run_report(run_dir).read_text("utf-8")


def test_an_evaluation_of_a_checkpoint_is_found(run_dir: Path) -> None:
    (run_dir / "evaluation").rename(run_dir / "evaluation-checkpoint-30")
    assert read_run(run_dir).result is not None


def test_the_best_checkpoint_comes_before_others(run_dir: Path, result: Values) -> None:
    (run_dir / "evaluation").rename(run_dir / "evaluation-aaa")
    lay(run_dir / "evaluation-best", {**result, "suite": "of the best"})
    run = read_run(run_dir)
    assert run.result
    assert run.result["suite"] == "of the best"
    named = read_run(run_dir, run_dir / "evaluation-aaa")
    assert named.result
    assert named.result["suite"] == "builtin"


def test_damaged_files_are_named_and_left_out(run_dir: Path) -> None:
    evaluation = run_dir / "evaluation"
    (evaluation / "representations.json").write_text("[1]", "utf-8")
    (run_dir / "environment.json").write_text("{" * 100_000, "utf-8")
    with (evaluation / "generations.jsonl").open("a") as file:
        file.write('{"id": 1\n7\n')
    run = read_run(run_dir)
    assert run.result
    assert run.result["representations"] == {}
    assert len(run.result["generations"]) == 120
    assert run.environment is None
    notes = "\n".join(run.notes)
    assert "representations.json is not a JSON object" in notes
    assert "environment.json is not JSON" in notes
    assert "generations.jsonl: 2 damaged lines left out" in notes


def test_results_without_figures_are_refused(run_dir: Path) -> None:
    (run_dir / "evaluation" / "results.json").write_text('{"tuned": 3}', "utf-8")
    run = read_run(run_dir)
    assert run.result is None
    assert "holds no figures of the tuned model" in "\n".join(run.notes)


def test_another_folder_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a run directory"):
        write_run_report(tmp_path)
