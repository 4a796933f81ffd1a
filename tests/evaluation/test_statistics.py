from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcausal.evaluation.statistics import auroc, paired_difference, proportion

VERDICT = st.sampled_from([True, False, None])
SCORES = st.lists(st.integers(-3, 3), min_size=1, max_size=12)


@given(st.lists(VERDICT, max_size=60))
def test_proportion_is_wilsons(verdicts: list[bool | None]) -> None:
    measured = [v for v in verdicts if v is not None]
    result = proportion(verdicts)
    n, z = len(measured), 1.959963984540054
    assert result["n"] == n
    if not n:
        assert result["value"] is result["low"] is result["high"] is None
        return
    p = sum(measured) / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert result["value"] == pytest.approx(p)
    assert result["low"] == pytest.approx(max(0.0, centre - half), abs=1e-9)
    assert result["high"] == pytest.approx(min(1.0, centre + half), abs=1e-9)


def test_paired_difference_counts_pairs_only() -> None:
    base = [True] * 9 + [False, None, True]
    tuned = [False] * 8 + [True, True, True, None]
    result = paired_difference(base, tuned)
    assert (result["n"], result["only_base"], result["only_tuned"]) == (10, 8, 1)
    assert result["value"] == pytest.approx(-0.7)
    # Exact McNemar: two-sided binomial, 1 of 9 at one half.
    assert result["p_value"] == pytest.approx(2 * (1 + 9) / 2**9)
    assert -1 <= result["low"] < -0.7 < result["high"] < 0


def test_bootstrap_interval_is_the_multinomials() -> None:
    # Resampling +1, 0, -1 is a multinomial draw: the quantiles have an independent reference.
    base, tuned = [True] * 30 + [False] * 70, [False] * 25 + [True] * 15 + [False] * 60
    result = paired_difference(base, tuned, seed=3)
    draws = np.random.default_rng(11).multinomial(100, [0.25, 0.65, 0.10], size=200_000)
    low, high = np.quantile((draws[:, 2] - draws[:, 0]) / 100, [0.025, 0.975])
    assert result["low"] == pytest.approx(low, abs=0.011)
    assert result["high"] == pytest.approx(high, abs=0.011)
    assert result == paired_difference(base, tuned, seed=3)


@pytest.mark.parametrize("pairs", [[], [(None, True)], [(True, True)], [(False, False)] * 5])
def test_nothing_discordant(pairs: list[tuple[bool | None, bool | None]]) -> None:
    result = paired_difference([b for b, _ in pairs], [t for _, t in pairs])
    assert result["low"] is result["high"] is None
    measured = [p for p in pairs if None not in p]
    assert result["n"] == len(measured)
    assert (result["value"], result["p_value"]) == ((0.0, 1.0) if measured else (None, None))


def test_pairs_must_match() -> None:
    with pytest.raises(ValueError, match="zip"):
        paired_difference([True], [])


@given(SCORES, SCORES)
def test_auroc_is_the_share_of_ordered_pairs(benign: list[int], injected: list[int]) -> None:
    wins = sum((b > i) + 0.5 * (b == i) for b in benign for i in injected)
    assert auroc(benign, injected) == pytest.approx(wins / (len(benign) * len(injected)))


def test_auroc_edges() -> None:
    assert auroc([], [1.0]) is None
    assert auroc([1.0], []) is None
    with pytest.raises(ValueError, match="nan"):
        auroc([float("nan")], [1.0])
