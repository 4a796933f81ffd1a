"""Shares, means, perplexity and the area under the ROC curve, each with its 95% interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

Verdict = bool | None
"""The result on one example; None if nothing can be measured."""

Estimate = dict[str, Any]
"""A measured value: `value`, `n` and the 95% interval `low`, `high`."""

_RESAMPLES = 9999
_Z95 = float(stats.norm.ppf(0.975))


def _estimate(value: float | None, n: int, interval: Any = None) -> Estimate:
    low, high = (None, None) if interval is None else map(float, interval)
    return {"value": value, "n": n, "low": low, "high": high}


def proportion(verdicts: Sequence[Verdict]) -> Estimate:
    """Share of true verdicts with its Wilson 95% interval; None does not count.

    All but `n` are None if nothing was measured.
    """
    measured = [verdict for verdict in verdicts if verdict is not None]
    if not measured:
        return _estimate(None, 0)
    test = stats.binomtest(sum(measured), len(measured))
    interval = test.proportion_ci(confidence_level=0.95, method="wilson")
    return _estimate(float(test.statistic), len(measured), interval)


def paired_difference(base: Sequence[Verdict], tuned: Sequence[Verdict]) -> dict[str, Any]:
    """Tuned share minus base share on the same examples, in the same order.

    Returns:
        An estimate with its 95% percentile bootstrap interval, McNemar's exact two-sided
        `p_value`, and its discordant pairs: `only_base`, `only_tuned`. The interval is None for
        fewer than two pairs, and if all pairs agree: resampling cannot show how sure that is.
    """
    pairs = [
        (before, after)
        for before, after in zip(base, tuned, strict=True)
        if before is not None and after is not None
    ]
    only_base = sum(before and not after for before, after in pairs)
    only_tuned = sum(after and not before for before, after in pairs)
    discordant = only_base + only_tuned
    value = (only_tuned - only_base) / len(pairs) if pairs else None
    p_value = 1.0 if pairs else None
    interval = None
    if discordant:
        p_value = float(stats.binomtest(only_base, discordant, 0.5).pvalue)
    if len(pairs) > 1 and discordant:
        differences = np.array([int(after) - int(before) for before, after in pairs])
        interval = _interval((differences,), np.mean)
    return {
        **_estimate(value, len(pairs), interval),
        "p_value": p_value,
        "only_base": only_base,
        "only_tuned": only_tuned,
    }


def mean(values: Sequence[float]) -> Estimate:
    """Mean with a 95% percentile bootstrap interval over its values.

    All but `n` are None without values. The interval is None for fewer than two.
    """
    return _bootstrapped((np.asarray(values, dtype=float),), np.mean)


def perplexity(losses: Sequence[float], tokens: Sequence[int]) -> Estimate:
    """Exponential of a token's mean cross-entropy in nats; `n` is the number of answers.

    The bootstrap draws whole answers, since an answer's tokens are dependent.
    """
    data = (np.asarray(losses, dtype=float), np.asarray(tokens, dtype=float))
    return _bootstrapped(data, _perplexity)


def _perplexity(losses: Any, tokens: Any, axis: int = -1) -> Any:
    return np.exp(np.sum(losses, axis=axis) / np.sum(tokens, axis=axis))


def _bootstrapped(data: tuple[Any, ...], statistic: Any) -> Estimate:
    n = len(data[0])
    if not n:
        return _estimate(None, 0)
    interval = _interval(data, statistic) if n > 1 else None
    return _estimate(float(statistic(*data)), n, interval)


def _interval(data: tuple[Any, ...], statistic: Any) -> Any:
    return stats.bootstrap(
        data,
        statistic,
        n_resamples=_RESAMPLES,
        batch=500,
        paired=len(data) > 1,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval


def auroc(scores_benign: Sequence[float], scores_injected: Sequence[float]) -> Estimate:
    """Chance that a benign prompt scores above an injected one; a tie counts half.

    The 95% interval is DeLong's. That has no width if the sides do not overlap, so it is then
    Wilson's over `n` disjoint pairs, all ordered alike. `n` is the number of prompts on the
    smaller side. All but `n` are None if a side is empty. The interval is None if all prompts
    score the same or a side has one prompt.

    Raises:
        ValueError: If a score is NaN.
    """
    benign, injected = np.asarray(scores_benign), np.asarray(scores_injected)
    n = min(len(benign), len(injected))
    if not n:
        return _estimate(None, 0)
    test = stats.mannwhitneyu(benign, injected, nan_policy="raise")
    value = float(test.statistic) / (len(benign) * len(injected))
    if value in (0.0, 1.0):
        return {**proportion([bool(value)] * n), "value": value}
    variance = _delong_variance(benign, injected) if n > 1 else 0.0
    if not variance:
        return _estimate(value, n)
    half = _Z95 * math.sqrt(variance)
    return _estimate(value, n, (max(0.0, value - half), min(1.0, value + half)))


def _delong_variance(benign: Any, injected: Any) -> float:
    """Variance of the area, from each prompt's share of the other side that it outranks."""
    ranks = stats.rankdata(np.concatenate([benign, injected]))
    above = (ranks[: len(benign)] - stats.rankdata(benign)) / len(injected)
    below = 1 - (ranks[len(benign) :] - stats.rankdata(injected)) / len(benign)
    return float(above.var(ddof=1) / len(benign) + below.var(ddof=1) / len(injected))
