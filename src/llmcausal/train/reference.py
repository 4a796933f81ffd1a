"""The preference's reference: the answers' cross-entropy without the adapter."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from llmcausal.data.tokenization import EncodedTriplet
from llmcausal.storage import replace_file
from llmcausal.train.batch import Needs, collate
from llmcausal.train.objective import PAIR
from llmcausal.train.step import TripletStep

_NEEDS = Needs(frozenset(), frozenset(PAIR))


def with_references(
    step: TripletStep,
    triplets: Sequence[EncodedTriplet],
    *,
    batch_size: int,
    folder: Path,
    weights: str,
    progress: Callable[[int, int], None] | None = None,
) -> list[EncodedTriplet]:
    """Returns the triplets with their `reference`, which a cache keeps by weights and content.

    Args:
        step: Its model is in evaluation mode, with the adapter off.
        triplets: Those without a `yielding` answer stay as they are.
        weights: Identifies the weights.
        progress: Called with (done, total).
    """
    paired = [triplet for triplet in triplets if triplet.yielding is not None]
    path = folder / f"{_digest(weights, paired, batch_size)}.json"
    found = _kept(path, len(paired))
    if found is None:
        found = []
        for start in range(0, len(paired), batch_size):
            batch = collate(paired[start : start + batch_size], _NEEDS, "last")
            with torch.no_grad():
                means = step.answer_means(batch.to(step.trunk.device), _NEEDS)
            found += torch.stack([means[term] for term in PAIR], dim=1).tolist()
            if progress:
                progress(len(found), len(paired))
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(path, [json.dumps(found).encode()])
    known = {each.id: (pair[0], pair[1]) for each, pair in zip(paired, found, strict=True)}
    return [replace(triplet, reference=known.get(triplet.id)) for triplet in triplets]


def _digest(weights: str, triplets: Sequence[EncodedTriplet], batch_size: int) -> str:
    digest = hashlib.sha256(f"{weights} {batch_size}".encode())
    for triplet in triplets:
        digest.update(json.dumps([vars(triplet.injection), vars(triplet.yielding)]).encode())
    return digest.hexdigest()


def _kept(path: Path, count: int) -> list[list[float]] | None:
    try:
        rows = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    sound = isinstance(rows, list) and len(rows) == count
    return rows if sound and all(len(row) == len(PAIR) for row in rows) else None
