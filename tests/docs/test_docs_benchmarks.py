"""The page of benchmarks is made of results, and says what was missed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from benchmarks.tables import SECTIONS, spread, versus
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


def comparison(
    length: int, share: float, faster: float, memory: float, weights: float = 0.2
) -> dict[str, Any]:
    ours = {"variant": "ours: keep", "times_faster": faster, "memory": memory}
    return {
        "case": f"{length} at {share}", "length": length, "share": share, "other": "trl",
        "weights": weights, "fastest": ours, "within": ours if memory <= 0.5 else None,
        "leanest": {**ours, "variant": "ours: lean"}, "leanest_other": "plain",
        "memory_of_leanest": 2 * memory, "memory_of_leanest_beyond_weights": 0.1,
    }  # fmt: skip


def steps(*comparisons: dict[str, Any]) -> dict[str, Any]:
    return {
        "environment": ENVIRONMENT, "rows": [], "comparisons": list(comparisons),
        "goals": {"times_faster": {"0% shared": 1.3, "50% shared": 2.0}, "memory": 0.5},
    }  # fmt: skip


def test_what_has_no_result_is_named_as_missing(tmp_path: Path) -> None:
    text = page.files(tmp_path)[page.PAGE]
    named = {name for name in page.BENCHMARKS if name not in ("counts", "evidence")}
    assert named == {name.partition("_bf16")[0] for name in SECTIONS}
    assert text.count("No result is kept") == len(SECTIONS)
    assert all(f"## {name}\n" in text for name in SECTIONS)


def test_goals_are_judged_case_by_case() -> None:
    result = steps(
        comparison(64, 0.0, 1.2, 0.3),
        comparison(64, 0.25, 1.4, 0.6),
        comparison(128, 0.5, 2.1, 0.6, weights=0.55),
        comparison(128, 0.75, 2.0, 0.2),
        comparison(128, 0.95, 0.9, 1.7),
    )
    text = versus(result)
    assert (
        "- 50% shared or more: at least 2 times the fastest other in 2 of 3; with at most 50% of "
        "its memory at the same time in 1 (not in 128 at 0.5; 128 at 0.95).\n"
    ) in text
    assert "- less than 50% shared: at least 1.3 times the fastest other in 1 of 2; " in text
    assert "same time in 0 (not in 64 at 0.0; 64 at 0.25).\n" in text
    assert (
        "The weights alone are more than 50% of the fastest other's memory in 128 at 0.5:" in text
    )
    assert "Our leanest takes at most 50% of the leanest other's memory in 1 of 5.\n" in text
    assert "- Another program is faster in: 128 at 0.95.\n" in text
    assert text.endswith("- Another program takes less memory in: 64 at 0.25; 128 at 0.5; "
                         "128 at 0.95.\n")  # fmt: skip
    assert "| 64, 0% | trl | keep: 1.20x, 30% | keep: 1.20x, 30% | lean: 1.20x, 30% |" in text
    assert "| 128, 95% | trl | keep: 0.90x, 170% | none | lean: 0.90x, 170% |" in text
    alone = versus(steps(comparison(64, 0.5, 2.5, 0.4)))
    assert "at the same time in 1.\n" in alone
    assert "The weights alone" not in alone
    assert "is faster in: none." in alone


def test_the_page_says_what_the_results_say(tmp_path: Path) -> None:
    (tmp_path / "step_peers.json").write_text(json.dumps(steps(comparison(64, 0.5, 3.21, 0.4))))
    text = page.files(tmp_path)[page.PAGE]
    assert "keep: 3.21x, 40%" in text
    assert "some processor, 2 threads" in text


def test_one_sample_is_called_one() -> None:
    assert spread([2.0]) == "2 (one sample)"
    assert spread([3.0, 1.0, 2.0]) == "2 [1, 3]"
