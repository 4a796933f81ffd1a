"""One teacher-forced pass over triplets: representations of prompts, losses of right answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import torch
from torch import Tensor

from llmcausal.data.tokenization import EncodedTriplet, TripletEncoder
from llmcausal.data.triplet import MEMBERS, Member, Triplet
from llmcausal.errors import DataError
from llmcausal.train.batch import Needs, Pooling, Term, TripletBatch, collate
from llmcausal.train.step import TripletStep

TERMS: tuple[Term, ...] = ("task", "robust")
_NO_ANSWER = "-"


@dataclass(frozen=True)
class Readable:
    """A triplet as token ids.

    Attributes:
        encoded: Its ids.
        answered: Whether the right answers are known, so that their loss can be measured.
    """

    encoded: EncodedTriplet
    answered: bool


@dataclass
class Readings:
    """What a pass gave, one entry a triplet.

    Attributes:
        ids: The triplets.
        representations: Of each member [triplets, width], in fp32 on the CPU.
        losses: For each term, summed cross-entropy of each known right answer.
        tokens: For each term, tokens of each of those answers.
    """

    ids: list[str] = field(default_factory=list)
    representations: dict[Member, Tensor] = field(default_factory=dict)
    losses: dict[Term, list[float]] = field(default_factory=lambda: {term: [] for term in TERMS})
    tokens: dict[Term, list[int]] = field(default_factory=lambda: {term: [] for term in TERMS})


def encode(
    encoder: TripletEncoder, triplets: Sequence[Triplet]
) -> tuple[list[Readable], list[dict[str, str]]]:
    """Encodes triplets; also returns the ones that do not fit, each as `id` and `reason`."""
    readable, skipped = [], []
    for triplet in triplets:
        answered = bool(triplet.response.strip() and triplet.robust_response.strip())
        unknown = replace(triplet, response=_NO_ANSWER, response_injection=None)
        try:
            encoded = encoder.encode(triplet if answered else unknown)
            reason = "" if encoded else encoder.ledger.dropped[-1].reason
        except DataError as error:
            encoded, reason = None, "; ".join(error.defects)
        if encoded:
            readable.append(Readable(encoded, answered))
        else:
            what = "not in the perplexity and the representations"
            skipped.append({"id": triplet.id, "reason": f"{what}: {reason}"})
    return readable, skipped


def read(
    step: TripletStep,
    triplets: Sequence[Readable],
    *,
    pooling: Pooling,
    batch_size: int,
    projected: bool,
    progress: Callable[[int, int], None] | None = None,
) -> Readings:
    """Runs the model once over each triplet, without gradients.

    Args:
        step: Runs the model; its objective's projection makes the representations.
        triplets: What to read.
        pooling: Which prompt tokens are pooled.
        batch_size: Triplets in one tree.
        projected: Apply the projection head; without it (a base model has none) the
            representation is the pooled hidden state.
        progress: Told (done, total) after each batch.
    """
    reader = _Reader(step.trunk, step.objective, step.execution)
    measured = Readings()
    rows: dict[Member, list[Tensor]] = {member: [] for member in MEMBERS}
    for answered, group in groupby(triplets, lambda triplet: triplet.answered):
        alike = [triplet.encoded for triplet in group]
        needs = Needs(frozenset(MEMBERS), frozenset(TERMS if answered else ()))
        for start in range(0, len(alike), batch_size):
            batch = collate(alike[start : start + batch_size], needs, pooling)
            reader.read(batch.to(step.trunk.device), needs, projected, measured, rows)
            measured.ids += batch.ids
            if progress:
                progress(len(measured.ids), len(triplets))
    if measured.ids:
        measured.representations = {member: torch.cat(values) for member, values in rows.items()}
    return measured


class _Reader(TripletStep):
    """The training step's own forward pass, kept apart by triplet instead of summed up."""

    @torch.no_grad()
    def read(
        self,
        batch: TripletBatch,
        needs: Needs,
        projected: bool,
        measured: Readings,
        rows: dict[Member, list[Tensor]],
    ) -> None:
        hidden = self._run(batch, needs)
        chosen = self.project(hidden.pooled) if projected else hidden.pooled
        for member, values in chosen.items():
            rows[member].append(values.float().cpu())
        for term, losses in self.label_losses(hidden.labelled, hidden.targets).items():
            counts = batch.answer_lengths(term)
            measured.tokens[term] += counts
            measured.losses[term] += [float(part.sum()) for part in losses.split(counts)]
