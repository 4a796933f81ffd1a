from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcausal.evaluation.statistics import (
    auroc,
    mean,
    paired_difference,
    perplexity,
    proportion,
)

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
    result = paired_difference(base, tuned)
    draws = np.random.default_rng(11).multinomial(100, [0.25, 0.65, 0.10], size=200_000)
    low, high = np.quantile((draws[:, 2] - draws[:, 0]) / 100, [0.025, 0.975])
    assert result["low"] == pytest.approx(low, abs=0.011)
    assert result["high"] == pytest.approx(high, abs=0.011)
    assert result == paired_difference(base, tuned)


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
    result = auroc(benign, injected)
    assert result["value"] == pytest.approx(wins / (len(benign) * len(injected)))
    assert result["n"] == min(len(benign), len(injected))
    if result["low"] is not None:
        assert 0 <= result["low"] <= result["value"] + 1e-12
        assert result["value"] - 1e-12 <= result["high"] <= 1


def test_auroc_interval_is_that_of_resampling() -> None:
    rng = np.random.default_rng(2)
    benign, injected = rng.normal(1, 1, 120), rng.normal(0, 2, 90)
    result = auroc(benign.tolist(), injected.tolist())
    drawn = [
        np.mean(
            rng.choice(benign, len(benign))[:, None] > rng.choice(injected, len(injected))[None, :]
        )
        for _ in range(2000)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert result["low"] == pytest.approx(low, abs=0.012)
    assert result["high"] == pytest.approx(high, abs=0.012)


def test_auroc_edges() -> None:
    nothing = {"value": None, "n": 0, "low": None, "high": None}
    assert auroc([], [1.0]) == auroc([1.0], []) == nothing
    with pytest.raises(ValueError, match="nan"):
        auroc([float("nan")], [1.0])
    # Without overlap DeLong's interval has no width; that of 20 pairs ordered alike has.
    apart = auroc([1.0] * 20, [0.0] * 30)
    assert (apart["value"], apart["high"]) == (1.0, pytest.approx(1.0))
    assert apart["low"] == pytest.approx(proportion([True] * 20)["low"])
    tied = auroc([1.0, 1.0], [1.0, 1.0])
    assert (tied["value"], tied["low"]) == (0.5, None)


def test_mean_and_its_interval() -> None:
    values = np.random.default_rng(1).normal(3, 2, 400).tolist()
    result = mean(values)
    half = 1.96 * np.std(values, ddof=1) / 20
    assert result["value"] == pytest.approx(np.mean(values))
    assert result["low"] == pytest.approx(np.mean(values) - half, abs=0.03)
    assert result["high"] == pytest.approx(np.mean(values) + half, abs=0.03)
    assert mean([]) == {"value": None, "n": 0, "low": None, "high": None}
    assert mean([2.0]) == {"value": 2.0, "n": 1, "low": None, "high": None}


def test_perplexity_weighs_by_tokens_and_draws_whole_answers() -> None:
    losses, tokens = [math.log(2) * 10, math.log(8) * 2], [10, 2]
    result = perplexity(losses, tokens)
    assert result["value"] == pytest.approx(math.exp(sum(losses) / 12))
    assert result["n"] == 2
    # A draw of one answer twice gives that answer's own perplexity.
    assert (result["low"], result["high"]) == (pytest.approx(2), pytest.approx(8))
    assert perplexity([], [])["value"] is None
