"""The largest sequence length and micro-batch that fit, found with few predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from llmcausal.config import RunConfig
from llmcausal.memory.budget import needed_bytes
from llmcausal.memory.plan import Predictor
from llmcausal.memory.prediction import Workload
from llmcausal.memory.strategies import Candidate

LENGTH_STEP = 64
"""Lengths looked at are multiples of it."""
LENGTH_TOLERANCE = 1 / 32
"""Share of a length to within which it is found."""
MOST_TOKENS = 16384
MOST_TRIPLETS = 8
"""Not searched beyond: a prediction takes time in proportion."""


def largest_that_fits(
    needed: Callable[[int], int],
    budget_bytes: int,
    *,
    start: int,
    step: int,
    most: int,
    tolerance: float = 0.0,
) -> int:
    """Finds the largest multiple of `step` up to `most` for which `needed` is within the budget.

    Memory is close to a straight line in the size, so each guess is where the line through the
    nearest two known sizes meets the budget; the result itself was always evaluated.

    Args:
        needed: Bytes at a size; must not fall as the size grows.
        budget_bytes: Most that may be needed.
        start: Size to begin at.
        step: Sizes looked at are its multiples.
        most: Largest size looked at.
        tolerance: Share by which a size may be larger than the result and fit as well.

    Returns:
        The size, or 0 if not even `step` fits.
    """
    top = most // step
    known = {0: 0}
    fits, too_large = 0, top + 1
    guess = max(1, min(round(start / step), top))
    while too_large - fits > max(1, int(fits * tolerance)):
        known[guess] = needed(guess * step)
        if known[guess] <= budget_bytes:
            fits = guess
        else:
            too_large = guess
        near = max(1, int(fits * tolerance))
        guess = _next_guess(known, fits, too_large, budget_bytes, near)
    return fits * step


def _next_guess(
    known: dict[int, int], fits: int, too_large: int, budget_bytes: int, near: int
) -> int:
    evaluated = sorted(size for size in known if size)
    if len(evaluated) < 2:
        guess = 2 * fits if fits else too_large // 2
    else:
        below = fits if fits else evaluated[0]
        one, other = sorted(evaluated, key=lambda size: abs(size - below))[:2]
        slope = (known[other] - known[one]) / (other - one)
        if slope <= 0:  # rounding hides the slope
            return (fits + too_large) // 2
        guess = one + int((budget_bytes - known[one]) / slope)
        if guess in known:  # the line stops short: settle the neighbour
            guess = fits + near if guess <= fits else too_large - near
    return max(fits + 1, min(guess, too_large - 1))


def with_length(workload: Workload, tokens: int) -> Workload:
    """Returns the workload at another length; the shared part and the responses scale with it."""
    ratio = tokens / workload.member_tokens
    shared = min(int(workload.shared_tokens * ratio), tokens - 2)
    response = max(1, min(workload.response_tokens, tokens - shared - 1))
    return replace(
        workload, member_tokens=tokens, shared_tokens=max(shared, 0), response_tokens=response
    )


def largest_length(
    config: RunConfig,
    workload: Workload,
    candidate: Candidate,
    budget_bytes: int,
    predictor: Predictor,
) -> int:
    """Finds the most tokens of a member that fit under a candidate's switches; 0 for none.

    To within `LENGTH_TOLERANCE`; that the length itself fits was predicted.
    """
    needed = _needed(config, candidate, predictor, partial(with_length, workload))
    start = workload.member_tokens
    return largest_that_fits(
        needed,
        budget_bytes,
        start=start,
        step=LENGTH_STEP,
        most=MOST_TOKENS,
        tolerance=LENGTH_TOLERANCE,
    )


def largest_batch(
    config: RunConfig,
    workload: Workload,
    candidate: Candidate,
    budget_bytes: int,
    predictor: Predictor,
) -> int:
    """Finds the most triplets in a micro-batch that fit under a candidate's switches."""
    needed = _needed(
        config, candidate, predictor, lambda triplets: replace(workload, triplets=triplets)
    )
    return largest_that_fits(
        needed, budget_bytes, start=workload.triplets, step=1, most=MOST_TRIPLETS
    )


def _needed(
    config: RunConfig,
    candidate: Candidate,
    predictor: Predictor,
    of_size: Callable[[int], Workload],
) -> Callable[[int], int]:
    section = config.model_copy(update={"memory": candidate.section})
    return lambda size: needed_bytes(predictor(section, of_size(size), candidate.strategy))
