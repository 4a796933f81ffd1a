"""The three splits of a run, as `[data]` names them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from llmcausal.attacks.base import Split
from llmcausal.config import BuiltinDataSection, DataSection
from llmcausal.data import formats
from llmcausal.data.builtin import generate
from llmcausal.data.natural import generate_natural
from llmcausal.data.spans import Content
from llmcausal.data.triplet import Triplet
from llmcausal.errors import DataError


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """Returns the order of `count` examples in an epoch, the same on every machine."""
    # PCG64 streams are part of numpy's compatibility promise.
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch])))
    keys = generator.random(count)
    return [int(index) for index in np.argsort(keys, kind="stable")]


BUILTIN = "builtin"


@dataclass(frozen=True)
class TrainingSplits:
    train: list[Triplet]
    validation: list[Triplet]


def load_split(section: DataSection, split: Split) -> list[Triplet]:
    """Reads or generates a split; raises a DataError with every defect of its file."""
    source = getattr(section, split)
    if source == BUILTIN:
        return _builtin(section.builtin, split)
    return formats.read_triplets(Path(source).expanduser())


def load_training_splits(section: DataSection) -> TrainingSplits:
    """Reads or generates training and validation data.

    With `validation = "auto"` and a training file, triplets with the same benign input stay
    together, so no held-out input is in training.

    Raises:
        DataError: With every defect, or if there are too few triplets.
    """
    train = load_split(section, "train")
    if section.validation != "auto":
        validation = load_split(section, "validation")
    elif section.train == BUILTIN:
        validation = _builtin(section.builtin, "validation")
    else:
        train, validation = _hold_out(train, section.validation_fraction, section.train)
    if section.max_samples is not None:
        train = train[: section.max_samples]
        validation = validation[: section.max_samples]
    return TrainingSplits(train, validation)


def _builtin(section: BuiltinDataSection, split: Split) -> list[Triplet]:
    count: int = getattr(section, split)
    natural = 0 if split == "test" else round(count * section.natural)
    tasks = generate(split, count - natural, section.seed)
    return [*tasks, *generate_natural(split, natural, section.seed, words=section.natural_words)]


def _hold_out(
    triplets: Sequence[Triplet], fraction: float, source: str
) -> tuple[list[Triplet], list[Triplet]]:
    groups: dict[tuple[str, Content], list[int]] = {}
    for index, triplet in enumerate(triplets):
        groups.setdefault(triplet.prompt("benign"), []).append(index)
    members = list(groups.values())
    wanted = max(1, round(fraction * len(triplets)))
    held_out: set[int] = set()
    for group in epoch_order(len(members), seed=0, epoch=0)[: len(members) - 1]:
        if len(held_out) + len(members[group]) <= wanted or not held_out:
            held_out.update(members[group])
        if len(held_out) >= wanted:
            break
    if not held_out:
        raise DataError(
            [f"{source}: data.validation: all triplets share one benign input"],
            "no validation data can be held out; name a file with data.validation",
        )
    train = [triplet for index, triplet in enumerate(triplets) if index not in held_out]
    return train, [triplets[index] for index in sorted(held_out)]


def fingerprint(triplets: Sequence[Triplet]) -> str:
    """Hashes triplets' content, whatever their file and format."""
    digest = hashlib.sha256()
    for triplet in triplets:
        content = asdict(triplet)
        if not triplet.spans:  # as before there were any, so that such runs can be resumed
            del content["spans"]
        digest.update(json.dumps(content, sort_keys=True).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
