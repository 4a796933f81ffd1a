"""The projection head: where it starts in a step's contrast, and how a detector comes about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import safetensors.torch
import torch

from llmcausal.assembly.build import Built, computed_whole
from llmcausal.assembly.prepare import PreparedData
from llmcausal.data.tokenization import EncodedTriplet
from llmcausal.evaluation.forward import Readable, Readings, read
from llmcausal.evaluation.generation import evaluation_mode
from llmcausal.losses.base import ContrastiveLoss, ProjectionHead
from llmcausal.metrics import COSINES
from llmcausal.train.batch import Needs, collate
from llmcausal.train.build import build_contrastive, build_projection, learns_detector
from llmcausal.train.checkpoint import PROJECTION, add_file, has_projection
from llmcausal.train.detector import LEARNING_RATE, learn_detector
from llmcausal.ui.console import ProgressLine, show_notes

CENTERED_ON = 32
"""Training triplets whose mean the projection head of a step's contrast starts from."""


def center_projection(built: Built, data: PreparedData) -> None:
    """Lets a fresh run's projection head start from the mean representation of its own data."""
    step = built.step
    if step.objective.projection is None:
        return
    needs = Needs(frozenset({"benign"}), frozenset())
    pooling = built.run.config.loss.pooling
    with torch.no_grad():
        rows = [
            step.representations(collate([triplet], needs, pooling).to(built.loaded.device), needs)[
                "benign"
            ]
            for triplet in data.train[:CENTERED_ON]
        ]
    step.objective.projection.center(torch.cat(rows))


def add_detector(built: Built, data: PreparedData, checkpoint: Path) -> None:
    """Puts a detector over the model at hand: the checkpoint's, or one that it learns and adds.

    Does nothing if the settings ask for none.

    Args:
        built: The run, with the checkpoint's weights.
        data: What the detector learns from.
        checkpoint: What the model at hand is saved in.
    """
    config, processes, step = built.run.config, built.run.processes, built.step
    if not learns_detector(config.loss):
        return
    head = build_projection(config.loss, step.trunk.head.shape[1], config.train.seed)
    contrastive = build_contrastive(config.loss)
    if head is None or contrastive is None:
        return
    if processes.on_main(lambda: has_projection(checkpoint)):
        head.load_state_dict(safetensors.torch.load_file(checkpoint / PROJECTION))
    elif processes.is_main or processes.sharded:
        figures = _learn(built, data, head, contrastive)
        if processes.is_main:
            weights = {name: value.contiguous() for name, value in head.state_dict().items()}
            add_file(checkpoint, PROJECTION, safetensors.torch.save(weights))
            show_notes([_describe(figures)])
    step.objective = replace(step.objective, projection=head.to(built.loaded.device))


def _learn(
    built: Built, data: PreparedData, head: ProjectionHead, contrastive: ContrastiveLoss
) -> dict[str, float]:
    section = built.run.config.train
    train = _read(built, data.train[: section.projection_triplets], "training")
    validation = _read(built, data.validation, "validation") if data.validation else None
    return learn_detector(
        head,
        contrastive,
        train.representations,
        validation.representations if validation else None,
        learning_rate=section.projection_learning_rate or LEARNING_RATE,
        seed=section.seed,
    )


def _describe(figures: Mapping[str, float]) -> str:
    shown = [f"{each.short} {figures[each.name]:.2f}" for each in COSINES if each.name in figures]
    return "detector trained" + (f"; validation: {', '.join(shown)}" if shown else "")


def _read(built: Built, triplets: Sequence[EncodedTriplet], split: str) -> Readings:
    config = built.run.config
    with (
        evaluation_mode(built.model),
        computed_whole(config.model, built.model, built.loaded.device, built.run.processes),
    ):
        return read(
            built.step,
            [Readable(triplet, answered=False) for triplet in triplets],
            pooling=config.loss.pooling,
            batch_size=config.validation.batch_size,
            projected=False,
            progress=ProgressLine(f"states for the detector, {split}"),
        )
