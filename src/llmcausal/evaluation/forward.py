"""A pass over given texts: representations, causal metrics, perplexity of right answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from llmcausal.data.tokenization import EncodedTriplet, TripletEncoder
from llmcausal.data.triplet import MEMBERS, Member, Triplet
from llmcausal.errors import DataError
from llmcausal.evaluation import statistics
from llmcausal.evaluation.statistics import Estimate
from llmcausal.train.batch import Needs, Pooling, Term, TripletBatch, collate
from llmcausal.train.objective import causal_metrics
from llmcausal.train.step import TripletStep

TERMS: tuple[Term, ...] = ("task", "robust")
_NO_ANSWER = "-"


@dataclass(frozen=True)
class Readable:
    """A triplet as token ids; without right answers (`answered`) it has no loss."""

    encoded: EncodedTriplet
    answered: bool


@dataclass
class Readings:
    """A pass's results, one entry a triplet.

    Attributes:
        ids: The triplets' ids.
        representations: For each member [triplets, width], in fp32 on the CPU.
        losses: For each term, the summed cross-entropy of each known right answer, in nats.
        tokens: For each term, the tokens of each of those answers.
    """

    ids: list[str] = field(default_factory=list)
    representations: dict[Member, Tensor] = field(default_factory=dict)
    losses: dict[Term, list[float]] = field(default_factory=lambda: {term: [] for term in TERMS})
    tokens: dict[Term, list[int]] = field(default_factory=lambda: {term: [] for term in TERMS})


def encode(
    encoder: TripletEncoder, triplets: Sequence[Triplet]
) -> tuple[list[Readable], list[dict[str, str]]]:
    """Encodes triplets; also returns `id` and `reason` of each triplet that does not fit."""
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

    The representations are the objective's projections if `projected`, else the pooled hidden
    states: a base model has no projection.
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
    """The training step's forward pass, by triplet instead of summed."""

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


MAX_MAPPED = 150
"""Triplets on the map; more points would hide one another."""


def causal_figures(measured: Readings, *, projected: bool) -> dict[str, Any]:
    """Computes the causal metrics of representations.

    `detection_auroc` scores each prompt by its cosine to the centroid of the counterfactuals,
    which are benign and not scored themselves.

    Returns:
        `causal_stability`, `spurious_separation`, `causal_discrimination` and `detection_auroc`
        as estimates, `representation` and `n`; only the last two if there are no triplets.
    """
    figures: dict[str, Any] = {
        "representation": "projection" if projected else "hidden state",
        "n": len(measured.ids),
    }
    if not measured.ids:
        return figures
    for name, values in causal_metrics(measured.representations).items():
        figures[name] = statistics.mean(values.tolist())
    unit = _units(measured.representations)
    centroid = normalize(unit["benign_cf"].mean(0), dim=0)
    figures["detection_auroc"] = statistics.auroc(
        (unit["benign"] @ centroid).tolist(), (unit["injection"] @ centroid).tolist()
    )
    return figures


def map_points(measured: Readings) -> list[dict[str, Any]]:
    """Projects the representations on their two main axes.

    Returns:
        `id`, `member`, `x` and `y` of each member of the first `MAX_MAPPED` triplets. Vectors are
        scaled to length 1 first, since the metrics compare only directions.
    """
    if not measured.ids:
        return []
    unit = _units(measured.representations)
    every = torch.cat([unit[member] for member in MEMBERS]).double()
    centre = every.mean(0)
    axes = torch.linalg.svd(every - centre, full_matrices=False).Vh[:2]
    # The sign of an axis is arbitrary: its largest component is made positive.
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    axes = axes * largest.sign()
    points = []
    for member in MEMBERS:
        laid = (unit[member][:MAX_MAPPED].double() - centre) @ axes.T
        for triplet_id, place in zip(measured.ids, laid.tolist(), strict=False):
            x, y = [round(value, 5) for value in (*place, 0.0)[:2]]
            points.append({"id": triplet_id, "member": member, "x": x, "y": y})
    return points


def _units(representations: Mapping[Member, Tensor]) -> dict[Member, Tensor]:
    return {member: normalize(values, dim=-1) for member, values in representations.items()}


def perplexity_figures(measured: Readings) -> dict[str, Estimate]:
    names = ("perplexity", "perplexity_under_attack")
    return {
        name: statistics.perplexity(measured.losses[term], measured.tokens[term])
        for name, term in zip(names, TERMS, strict=True)
    }
