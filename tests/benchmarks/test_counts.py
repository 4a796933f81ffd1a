"""What does not depend on the machine's speed is counted, and stays as it was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.counts import TOLERANCES, differences, largest_packages

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
def test_counts_are_as_expected() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.counts"], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", TOLERANCES)
def test_what_leaves_its_tolerance_is_named(kind: str) -> None:
    expected = {name: {"a": 1000} for name in TOLERANCES}
    most = int(1000 * TOLERANCES[kind])
    assert differences({**expected, kind: {"a": 1000 + most}}, expected) == []
    assert differences({**expected, kind: {"a": 1000 - most}}, expected) == []
    for found in (1001 + most, 999 - most):
        (line,) = differences({**expected, kind: {"a": found}}, expected)
        assert line.startswith(f"{kind}, a: {found:,}, expected 1,000")
    assert len(differences({**expected, kind: {"b": 1000}}, expected)) == 2


def test_largest_packages_are_counted_by_module() -> None:
    assert largest_packages(["b", "a.x", "a", "c"]).startswith("a 2, ")
