"""The data of a run as micro-batches, addressed by (epoch, position)."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from llmcausal.data.splits import epoch_order
from llmcausal.data.tokenization import EncodedTriplet
from llmcausal.train.batch import Needs, Pooling, TripletBatch, collate


class Batches:
    """Cuts each epoch's order into optimizer steps of micro-batches.

    Args:
        triplets: All training examples.
        batch_size: Triplets in a micro-batch.
        accumulation_steps: Micro-batches in an optimizer step.
        seed: Of the order.
        needs: What the objective reads.
        pooling: Which prompt tokens are pooled.
    """

    def __init__(
        self,
        triplets: Sequence[EncodedTriplet],
        *,
        batch_size: int,
        accumulation_steps: int,
        seed: int,
        needs: Needs,
        pooling: Pooling,
    ) -> None:
        self.triplets = triplets
        self.batch_size = batch_size
        self.step_size = batch_size * accumulation_steps
        self.seed = seed
        self.needs = needs
        self.pooling = pooling
        self._order: tuple[int, list[int]] = (-1, [])

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass; the last may be smaller."""
        return ceil(len(self.triplets) / self.step_size)

    def step_at(self, epoch: int, position: int) -> list[TripletBatch]:
        """Returns the micro-batches of the step that starts at triplet `position` of `epoch`."""
        if self._order[0] != epoch:
            self._order = (epoch, epoch_order(len(self.triplets), self.seed, epoch))
        chosen = self._order[1][position : position + self.step_size]
        return [
            collate(
                [self.triplets[index] for index in chosen[start : start + self.batch_size]],
                self.needs,
                self.pooling,
            )
            for start in range(0, len(chosen), self.batch_size)
        ]

    def after(self, epoch: int, position: int) -> tuple[int, int]:
        """Returns the epoch and position of the step after this one."""
        position += self.step_size
        return (epoch, position) if position < len(self.triplets) else (epoch + 1, 0)


def fixed_batches(
    triplets: Sequence[EncodedTriplet], batch_size: int, needs: Needs, pooling: Pooling
) -> list[TripletBatch]:
    """Cuts examples into batches in their own order, for validation."""
    return [
        collate(triplets[start : start + batch_size], needs, pooling)
        for start in range(0, len(triplets), batch_size)
    ]
