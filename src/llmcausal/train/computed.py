"""Micro-batches dealt to the processes, and the figures that all of them gave together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from llmcausal.train.batch import TripletBatch
from llmcausal.train.processes import Processes
from llmcausal.train.scoring import StepResult

Compute = Callable[[int, TripletBatch], StepResult]
"""Computes a micro-batch, given its place in the whole and itself."""


@dataclass(frozen=True)
class Computed:
    """What one micro-batch gave, as plain values.

    Attributes:
        ids: Of its triplets.
        tokens: Tokens computed (a shared token counts once).
        sums: Of loss terms and metrics, over its triplets or labels.
        counts: What each sum is to be divided by.
    """

    ids: tuple[str, ...]
    tokens: int
    sums: dict[str, float]
    counts: dict[str, int]


def compute(batches: Sequence[TripletBatch], processes: Processes, work: Compute) -> list[Computed]:
    """Computes each process's share of the micro-batches, and returns what all of them gave.

    Args:
        batches: All micro-batches, in order.
        processes: Who shares them.
        work: Called for this process's share, in order, and for what it only computes to keep the
            others company (`Processes.owns`), which comes last and is not counted.

    Returns:
        One for each of `batches`, in their order, the same on every process.
    """
    shares = processes.forward_all(lambda: _share(batches, processes, work))
    return processes.unshard(shares, len(batches))


def means(computed: Sequence[Computed]) -> dict[str, float]:
    """Returns each figure's mean; `loss` is a sum of shares that are weighted already."""
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for each in computed:
        for name, value in each.sums.items():
            sums[name] = sums.get(name, 0.0) + value
            counts[name] = counts.get(name, 0) + each.counts[name]
    return {name: sums[name] / (1 if name == "loss" else counts[name]) for name in sums}


def _share(batches: Sequence[TripletBatch], processes: Processes, work: Compute) -> list[Computed]:
    mine = processes.shard(list(enumerate(batches)))
    results = [(batch, work(place, batch)) for place, batch in mine]
    # Only now, for reading a figure waits until the device has computed it.
    return [_plain(batch, result) for batch, result in results]


def _plain(batch: TripletBatch, result: StepResult) -> Computed:
    values = torch.stack([value.double() for value in result.sums.values()]).tolist()
    sums = dict(zip(result.sums, values, strict=True))
    return Computed(batch.ids, len(batch.tokens), sums, result.counts)
