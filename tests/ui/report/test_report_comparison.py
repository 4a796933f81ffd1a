from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from llmcausal.errors import UsageError
from llmcausal.ui.report.page import MOST_RUNS, differing_settings, write_comparison

HOSTILE = "</td><script>alert(1)</script>"


class Cells(HTMLParser):
    """Collects the tags, and the text of each table row's cells, as a browser would."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.rows: list[list[str]] = []
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.rows[-1][-1] += data


def lay_run(folder: Path, config: str, losses: list[float], asr: float | None = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(config, "utf-8")
    rows = [{"step": step, "loss": loss} for step, loss in enumerate(losses, 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    if asr is not None:
        figure = {"value": asr, "low": asr / 2, "high": asr * 2, "n": 40}
        (folder / "evaluation").mkdir()
        result = {"tuned": {"attack_success_rate": figure}}
        (folder / "evaluation" / "results.json").write_text(json.dumps(result), "utf-8")
    return folder


def test_figures_settings_and_curves_of_both_runs(tmp_path: Path) -> None:
    one = lay_run(tmp_path / "one", "[train]\nlr = 0.1\nseed = 0\n", [3.0, 2.0], 0.25)
    two = lay_run(tmp_path / "two", "[train]\nlr = 0.2\nseed = 0\n", [3.0, 1.0])
    with (two / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')  # the run still trains
    page = write_comparison([one, two], tmp_path / "out.html").read_text("utf-8")
    cells = Cells(page)
    (asr,) = [row for row in cells.rows if row[0].startswith("Attack success")]
    assert "25" in asr[1]
    assert "12.5" in asr[1]
    assert asr[2] == "not measured"
    assert ["train.lr", "0.1", "0.2"] in cells.rows
    assert not [row for row in cells.rows if row[0] == "train.seed"]
    assert '<g class="line run-0">' in page
    assert '<g class="line run-1">' in page
    assert "two: not evaluated yet." in page


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    hostile = json.dumps(HOSTILE)
    one = lay_run(tmp_path / "one", f"name = {hostile}\n", [1.0])
    two = lay_run(tmp_path / "<b>two", 'name = "two"\n', [1.0])
    cells = Cells(write_comparison([one, two], tmp_path / "out.html").read_text("utf-8"))
    assert "script" not in cells.tags
    assert "b" not in cells.tags
    assert ["name", HOSTILE, "two"] in cells.rows


def test_a_setting_that_one_run_lacks_differs() -> None:
    assert differing_settings(["a = 1\nb = true", "a = 1", "not TOML ="]) == [
        ("a", ["1", "1", "not set"]),
        ("b", ["true", "not set", "not set"]),
    ]


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [lay_run(tmp_path / parent / "run", "", [1.0]) for parent in ("x", "y")]
    page = write_comparison(runs, tmp_path / "out.html").read_text("utf-8")
    assert "<bdi>x/run</bdi>" in page
    assert "<bdi>y/run</bdi>" in page


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    run = lay_run(tmp_path / "run", "", [1.0])
    with pytest.raises(UsageError, match="named twice"):
        write_comparison([run, tmp_path / "x" / ".." / "run"], tmp_path / "out.html")
    with pytest.raises(UsageError, match="not a run directory"):
        write_comparison([run, tmp_path / "absent"], tmp_path / "out.html")
    many = [tmp_path / str(index) for index in range(MOST_RUNS + 1)]
    with pytest.raises(UsageError, match="at most 8"):
        write_comparison(many, tmp_path / "out.html")
    assert not (tmp_path / "out.html").exists()
