"""Causal metrics and detection on representations, for a tuned model and for its base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from llmcausal.data.tokenization import EncodedTriplet
from llmcausal.data.triplet import MEMBERS, Member
from llmcausal.evaluation.statistics import auroc
from llmcausal.train.batch import Needs, Pooling, collate
from llmcausal.train.step import TripletStep, causal_metrics


def causal_evaluation(
    step: TripletStep,
    triplets: Sequence[EncodedTriplet],
    *,
    pooling: Pooling,
    batch_size: int,
    projected: bool,
) -> dict[str, Any]:
    """Computes the causal metrics over triplets.

    `detection_auroc` scores each prompt by its cosine to the centroid of the counterfactuals,
    which are benign and are not scored themselves.

    Args:
        step: Runs the model; its objective's projection makes the representations.
        triplets: Encoded triplets.
        pooling: Which prompt tokens are pooled.
        batch_size: Triplets in one tree.
        projected: Apply the projection head; without it (a base model has none) the
            representation is the pooled hidden state.

    Returns:
        `causal_stability`, `spurious_separation`, `causal_discrimination`, `detection_auroc`,
        `representation` and `n`; only `n` if there are no triplets.
    """
    if not triplets:
        return {"n": 0}
    needs = Needs(frozenset(MEMBERS), frozenset())
    rows: dict[Member, list[Tensor]] = {member: [] for member in MEMBERS}
    with torch.no_grad():
        for start in range(0, len(triplets), batch_size):
            batch = collate(triplets[start : start + batch_size], needs, pooling)
            pooled = step.representations(batch.to(step.trunk.head.device), needs)
            chosen = step.project(pooled) if projected else pooled
            for member, values in chosen.items():
                rows[member].append(values.float().cpu())
    representations = {member: torch.cat(values) for member, values in rows.items()}
    figures: dict[str, Any] = {
        name: float(values.mean()) for name, values in causal_metrics(representations).items()
    }
    unit = {member: normalize(values, dim=-1) for member, values in representations.items()}
    centroid = normalize(unit["benign_cf"].mean(0), dim=0)
    figures["detection_auroc"] = auroc(
        (unit["benign"] @ centroid).tolist(), (unit["injection"] @ centroid).tolist()
    )
    figures["n"] = len(triplets)
    figures["representation"] = "projection" if projected else "hidden state"
    return figures
