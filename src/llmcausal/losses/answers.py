"""How much each token of an answer weighs."""

from __future__ import annotations

FIRST_TOKENS = 4
FIRST_WEIGHT = 4.0
"""The first tokens decide whether an answer does the task or obeys; the rest follows from them."""


def answer_weights(count: int) -> list[float]:
    """Returns the weight of each token of an answer of so many.

    An answer weighs 1 in all, however long, and its first tokens `FIRST_WEIGHT` times as much as
    the others.
    """
    weights = [FIRST_WEIGHT if place < FIRST_TOKENS else 1.0 for place in range(count)]
    whole = sum(weights)
    return [weight / whole for weight in weights]
