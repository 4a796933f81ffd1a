"""Shares with intervals, paired differences, and the area under the ROC curve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

Verdict = bool | None
"""What was measured on one example; None where nothing could be."""

_RESAMPLES = 9999


def proportion(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Share of true verdicts with its Wilson 95% interval; None is not counted.

    Returns:
        `value`, `n`, `low`, `high`; all but `n` are None when nothing was measured.
    """
    measured = [verdict for verdict in verdicts if verdict is not None]
    n = len(measured)
    if not n:
        return {"value": None, "n": 0, "low": None, "high": None}
    test = stats.binomtest(sum(measured), n)
    interval = test.proportion_ci(confidence_level=0.95, method="wilson")
    return {
        "value": float(test.statistic),
        "n": n,
        "low": float(interval.low),
        "high": float(interval.high),
    }


def paired_difference(
    base: Sequence[Verdict], tuned: Sequence[Verdict], seed: int = 0
) -> dict[str, Any]:
    """Tuned share minus base share on the same examples.

    Args:
        base: Verdicts on the base model's answers.
        tuned: Verdicts on the tuned model's, in the same order.
        seed: Of the bootstrap.

    Returns:
        `value`, `n`, the 95% percentile bootstrap interval `low`, `high`, McNemar's exact
        two-sided `p_value`, and the discordant pairs it rests on: `only_base`, `only_tuned`.
        The interval is None below two pairs, and where all pairs agree, since resampling
        cannot show how sure that is.
    """
    pairs = [
        (before, after)
        for before, after in zip(base, tuned, strict=True)
        if before is not None and after is not None
    ]
    only_base = sum(before and not after for before, after in pairs)
    only_tuned = sum(after and not before for before, after in pairs)
    discordant = only_base + only_tuned
    low = high = None
    if len(pairs) > 1 and discordant:
        differences = np.array([int(after) - int(before) for before, after in pairs])
        interval = stats.bootstrap(
            (differences,),
            np.mean,
            n_resamples=_RESAMPLES,
            batch=500,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
        low, high = float(interval.low), float(interval.high)
    return {
        "value": (only_tuned - only_base) / len(pairs) if pairs else None,
        "n": len(pairs),
        "low": low,
        "high": high,
        "p_value": _mcnemar(only_base, discordant) if pairs else None,
        "only_base": only_base,
        "only_tuned": only_tuned,
    }


def _mcnemar(successes: int, discordant: int) -> float:
    return float(stats.binomtest(successes, discordant, 0.5).pvalue) if discordant else 1.0


def auroc(scores_benign: Sequence[float], scores_injected: Sequence[float]) -> float | None:
    """Chance that a benign prompt scores above an injected one, ties counting half.

    Returns:
        None when either side is empty.

    Raises:
        ValueError: If a score is NaN.
    """
    if not len(scores_benign) or not len(scores_injected):
        return None
    test = stats.mannwhitneyu(scores_benign, scores_injected, nan_policy="raise")
    return float(test.statistic) / (len(scores_benign) * len(scores_injected))
