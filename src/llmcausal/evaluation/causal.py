"""Causal metrics, detection and a map, all from representations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from llmcausal.data.triplet import MEMBERS, Member
from llmcausal.evaluation import statistics
from llmcausal.evaluation.forward import Readings
from llmcausal.train.objective import causal_metrics

MAX_MAPPED = 150
"""Triplets on the map; more would hide one another."""


def causal_figures(measured: Readings, *, projected: bool) -> dict[str, Any]:
    """Computes the causal metrics.

    `detection_auroc` scores each prompt by its cosine to the centroid of the counterfactuals,
    which are benign and are not scored themselves.

    Args:
        measured: Representations of all three members.
        projected: Whether they went through the projection head.

    Returns:
        `causal_stability`, `spurious_separation`, `causal_discrimination` and `detection_auroc`
        as figures, `representation` and `n`; only the last two if there are no triplets.
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
    """Lays the representations out in two dimensions, by the two main axes of all of them.

    Returns:
        `id`, `member`, `x` and `y` of each member of the first `MAX_MAPPED` triplets. Vectors are
        scaled to length 1 first, since the metrics compare directions only.
    """
    if not measured.ids:
        return []
    unit = _units(measured.representations)
    every = torch.cat([unit[member] for member in MEMBERS]).double()
    centre = every.mean(0)
    axes = torch.linalg.svd(every - centre, full_matrices=False).Vh[:2]
    # An axis points either way alike: let its largest component be positive.
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
