"""The order of examples: a function of (seed, epoch), so that a position is one integer."""

from __future__ import annotations

import numpy as np


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """Returns the order in which epoch `epoch` visits `count` examples.

    The same on every machine: PCG64 streams are part of numpy's compatibility promise.
    """
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch])))
    keys = generator.random(count)
    return [int(index) for index in np.argsort(keys, kind="stable")]
