"""The page of evidence and README's table say what the result says."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import pytest

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
    # Only plain is broken on 6 prompts, only ours on 1: 2 * (1 + 7) / 2^7.
    assert page.p_value(ROWS[1:3], ROWS[3:]) == f"{2 * 8 / 2**7:.2g}"
    # The untouched model meets both seeds: 12 against 1.
    assert page.p_value(ROWS[:1], ROWS[3:]) == f"{2 * 14 / 2**13:.2g}"


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
