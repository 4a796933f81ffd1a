"""The page of benchmarks and README's figures are made of results, and say what was missed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from tests.docs.shown import REPOSITORY

spec = importlib.util.spec_from_file_location("page", REPOSITORY / "docs" / "benchmarks.py")
assert spec is not None
assert spec.loader is not None
page = importlib.util.module_from_spec(spec)
spec.loader.exec_module(page)

ENVIRONMENT = {
    "date": "2026-01-02", "processor": "some processor", "threads": 2, "python": "3.11",
    "packages": {"torch": "1", "transformers": "2", "peft": "3"},
}  # fmt: skip


def comparison(length: int, share: float, faster: float, memory: float) -> dict[str, Any]:
    return {
        "case": f"{length} at {share}", "length": length, "share": share,
        "fastest_ours": "keep", "fastest_peer": "trl", "times_faster": faster,
        "memory_of_fastest": memory, "leanest_ours": "lean", "leanest_peer": "plain",
        "memory_of_leanest": 0.4, "memory_beyond_weights_of_leanest": 0.1,
        "memory_of_leanest_to_fastest_peer": memory,
        "leanest_times_faster_than_fastest_peer": faster,
    }  # fmt: skip


def steps(*comparisons: dict[str, Any]) -> dict[str, Any]:
    return {
        "environment": ENVIRONMENT, "rows": [], "comparisons": list(comparisons),
        "goals": {"times_faster": {"0% shared": 1.3, "50% shared": 2.0}, "memory": 0.5},
    }  # fmt: skip


def test_what_has_no_result_is_named_as_missing(tmp_path: Path) -> None:
    text = page.files(tmp_path)[page.PAGE]
    named = [name for name in page.BENCHMARKS if name != "counts"]
    assert text.count("No result is kept") == len(named) == len(page.SECTIONS)
    assert all(f"## {name}\n" in text for name in named)


def test_goals_are_judged_case_by_case() -> None:
    result = steps(
        comparison(64, 0.0, 1.2, 0.3),
        comparison(64, 0.25, 1.4, 0.6),
        comparison(128, 0.5, 2.0, 0.5),
        comparison(128, 0.95, 0.9, 1.7),
    )
    text = page.versus(result)
    assert "At least 2 times the fastest other (50% shared or more): 1 of 2." in text
    assert "At least 1.3 times the fastest other (less than 50% shared): 1 of 2." in text
    assert "our fastest of the fastest other's in 2 of 4, our leanest" in text
    assert "with at most 50% of its memory in 2.\n" in text
    assert "other's in 4.\n" in text
    assert "\nAnother program is faster in: 128 at 0.95." in text
    assert text.endswith("takes more memory than the fastest other in: 128 at 0.95.\n")
    assert "is faster in: none." in page.versus(steps(comparison(64, 0.5, 2.5, 0.4)))


def test_readme_says_what_the_results_say(tmp_path: Path) -> None:
    (tmp_path / "step_peers.json").write_text(json.dumps(steps(comparison(64, 0.5, 3.21, 0.4))))
    made = page.files(tmp_path)
    readme = made[page.README]
    assert "| 3.21 |" in readme
    assert "some processor, 2 threads" in readme
    assert "| 3.21 |" in made[page.PAGE]
    before, after = page.README.read_text("utf-8").split(page.BEGIN)
    assert readme.startswith(before)
    assert readme.endswith(after.split(page.END)[1])
    with pytest.raises(ValueError, match="unpack"):
        page.readme("no marks", {})


def test_one_sample_is_called_one() -> None:
    assert page.spread([2.0]) == "2 (one sample)"
    assert page.spread([3.0, 1.0, 2.0]) == "2 [1, 3]"
