"""Attack success against utility at several scales of the adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmcausal.data.triplet import Triplet
from llmcausal.evaluation.evaluate import evaluate
from llmcausal.evaluation.generation import Answering, Progress
from llmcausal.metrics import of
from llmcausal.model.lora import adapter_scaled


def measure_scales(
    answering: Answering,
    triplets: Sequence[Triplet],
    scales: Sequence[float],
    known: Mapping[float, Mapping[str, Any] | None],
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Measures generated answers with the adapter's update multiplied by each scale.

    Args:
        known: Figures of scales that are measured already, such as 1, and 0 for the base.

    Returns:
        `scale` and the figures of answers, by growing scale.
    """
    points = []
    for scale in sorted(set(scales)):
        figures = known.get(scale)
        if figures is None:
            with adapter_scaled(answering.model, scale):
                result = evaluate(answering, triplets, baseline=False, progress=progress)
            figures = result["tuned"]
        names = [metric.name for metric in of("answers") if metric.name in figures]
        points.append({"scale": scale, **{name: figures[name] for name in names}})
    return points
