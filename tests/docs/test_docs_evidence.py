"""The page of evidence and README's table say what the result says."""

from __future__ import annotations

import importlib.util
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evidence import kept
from tests.docs.shown import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "docs"))
spec = importlib.util.spec_from_file_location("evidence_page", REPOSITORY / "docs" / "evidence.py")
assert spec is not None
assert spec.loader is not None
page = importlib.util.module_from_spec(spec)
spec.loader.exec_module(page)


def row(method: str, seed: int, broken: list[bool]) -> dict[str, Any]:
    value = sum(broken) / len(broken)
    return {
        "suite": "sep", "method": method, "seed": seed,
        "figures": {page.BEST: {"value": value, "n": len(broken)}},
        "broken": {str(index): each for index, each in enumerate(broken)},
    }  # fmt: skip


ROWS = [
    row("untouched", 0, [True] * 6 + [False] * 2),
    row("plain", 0, [True] * 4 + [False] * 4),
    row("plain", 1, [True] * 2 + [False] * 6),
    row("ours", 0, [False] * 8),
    row("ours", 1, [False] * 7 + [True]),
]


def test_shares_are_pooled_over_seeds() -> None:
    assert page.pooled(ROWS[1:3], page.BEST) == (6, 16)
    assert page.share((6, 16)).startswith("37.5% [")
    assert page.pooled(ROWS, "utility") is None


def test_methods_are_compared_on_the_same_prompts_of_the_same_seeds() -> None:
    # Seed 0 differs on prompts 0 to 3; seed 1 on 0 and 1, and on 7 the other way round.
    # Differences 2, 2, 1, 1, -1: of 32 choices of signs, those that reach a sum of 5 or -5.
    reach = sum(
        abs(a * 2 + b * 2 + c + d + e) >= 5
        for a, b, c, d, e in itertools.product((1, -1), repeat=5)
    )
    assert page.p_value(ROWS[1:3], ROWS[3:]) == f"{reach / 32:.2g}"
    # Two seeds that agree are no more evidence than one.
    assert page.p_value(ROWS[:1], ROWS[3:4]) == f"{2 / 2**6:.2g}"
    twice = [ROWS[3], {**ROWS[3], "seed": 1}]
    assert page.p_value(ROWS[:1], twice) == f"{2 / 2**6:.2g}"
    assert page.p_value(ROWS[3:4], ROWS[3:]) == "1"


def test_rows_of_an_earlier_result_are_kept_if_its_prompts_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "earlier.json"
    path.write_text(json.dumps({"rows": ROWS, "command": "earlier"}), "utf-8")
    now = [ROWS[0], row("ours", 0, [True] * 8)]
    earlier = kept(path, now)
    assert earlier["command"] == "earlier"
    assert [(each["method"], each["seed"]) for each in earlier["rows"]] == [
        ("plain", 0), ("plain", 1), ("ours", 1),
    ]  # fmt: skip
    with pytest.raises(SystemExit, match="cannot be joined"):
        kept(path, [row("untouched", 0, [False] * 8)])


def test_readme_gets_the_table_between_its_marks() -> None:
    names = {"untouched": "untouched", "plain": "plain fine-tuning", "ours": "us"}
    result = {"rows": ROWS, "attacks": 6, "names": names}
    begin, end = "<!-- evidence: docs/evidence.py -->\n", "<!-- end of evidence -->"
    text = page.readme(f"before\n{begin}old\n{end}\nafter\n", result)
    assert text.startswith(f"before\n{begin}\n|")
    assert text.endswith(f"{end}\nafter\n")
    with pytest.raises(ValueError, match="0 times"):
        page.readme("no marks", result)
    assert "old" not in text
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert "SEP: any of 6 attacks works" in lines[0]
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        "untouched", "plain fine-tuning", "us",
    ]  # fmt: skip
    assert "6.2% [1, 28]" in lines[-1]
