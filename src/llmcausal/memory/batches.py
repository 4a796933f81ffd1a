"""Larger micro-batches with the same triplets in an optimizer step."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace

from llmcausal.config import RunConfig
from llmcausal.launched import process_count
from llmcausal.memory.architecture import load_architecture
from llmcausal.memory.plan import MOST_TRIPLETS, Case, Plan
from llmcausal.memory.prediction import Prediction, Workload
from llmcausal.memory.roofline import Card, card_here, card_seconds
from llmcausal.train.build import contrastive_of_step

SPARE = 0.95
"""A larger micro-batch may need this share of the budget: running out would cost its gain."""


@dataclass(frozen=True)
class Raised:
    """Settings with a larger micro-batch, their prediction, and the gain for people."""

    config: RunConfig
    prediction: Prediction
    gain: str


def raise_batch_size(
    case: Case, chosen: Plan, workload_of: Callable[[RunConfig], Workload]
) -> Raised | None:
    """Finds the largest micro-batch that fits with the chosen strategy.

    Gradients stay equal to rounding: each triplet's share depends on the whole optimizer step
    alone. Fewer micro-batches read the frozen weights less often and start fewer kernels.

    Args:
        workload_of: Returns the longest micro-batch of the data under given settings.

    Returns:
        None if no larger micro-batch fits or `memory.raise_batch_size` does not apply.
    """
    config = case.config
    cases = []
    for size in larger_sizes(config) if chosen.fits and _applies(case, chosen) else []:
        larger = with_batch_size(config, size)
        cases.append(replace(case, config=larger, workload=workload_of(larger)))

    def too_large(index: int) -> bool:
        found, limit = cases[index].predicted(chosen.option), case.host_budget_bytes
        fits = found.needed_bytes <= SPARE * case.budget_bytes
        return not (fits and (limit is None or found.host_bytes <= limit))

    count = bisect_left(range(len(cases)), True, key=too_large)
    if not count:
        return None
    largest = cases[count - 1]
    found = largest.predicted(chosen.option)
    card = card_here() if case.predictor.device == "cuda" else None
    gain = _gain((config, chosen.prediction), (largest.config, found), card)
    return Raised(largest.config, found, gain)


def larger_sizes(config: RunConfig) -> list[int]:
    """Lists larger micro-batches that divide the optimizer step among all processes."""
    size, steps = config.train.batch_size, config.train.accumulation_steps
    factors = range(2, MOST_TRIPLETS // size + 1)
    return [size * factor for factor in factors if steps % (factor * process_count()) == 0]


def with_batch_size(config: RunConfig, size: int) -> RunConfig:
    """Changes the micro-batch, with the same triplets in an optimizer step."""
    triplets = config.train.batch_size * config.train.accumulation_steps
    values = {"batch_size": size, "accumulation_steps": triplets // size}
    return config.model_copy(update={"train": config.train.model_copy(update=values)})


def _applies(case: Case, chosen: Plan) -> bool:
    config = case.config
    contrastive = contrastive_of_step(config.loss)
    # Weights that are dequantized once are not in the prediction.
    unpacked = case.predictor.device == "cpu" and config.model.unpack_on_cpu
    return (
        config.memory.raise_batch_size
        and chosen.option.section.members == "tree"
        and not unpacked
        and not config.lora.dropout
        and not _has_dropout(config)
        and (contrastive is None or contrastive.per_triplet)
    )


def _has_dropout(config: RunConfig) -> bool:
    values = load_architecture(config.model).get_text_config().to_dict().items()
    return any(value for name, value in values if name.endswith(("dropout", "pdrop")))


Planned = tuple[RunConfig, Prediction]


def _gain(before: Planned, after: Planned, card: Card | None) -> str:
    """Compares an optimizer step's counts for the longest micro-batches."""
    (first, one), (second, other) = before, after
    train, larger = first.train, second.train
    steps, fewer = train.accumulation_steps, larger.accumulation_steps
    parts = [f"{other.launches * fewer:,} kernels instead of {one.launches * steps:,}"]
    if one.weight_reads:
        reads = f"{other.weight_reads * fewer:,} times instead of {one.weight_reads * steps:,}"
        parts.append(f"4-bit weights read {reads}")
    if card is not None:
        times = [
            " to ".join(f"{count * seconds:.2g}" for seconds in card_seconds(made.kernels, card))
            for made, count in ((other, fewer), (one, steps))
        ]
        parts.append(f"predicted {times[0]} s instead of {times[1]} s on this {card.name}")
    return (
        f"memory: micro-batches of {larger.batch_size} triplets instead of {train.batch_size}, the "
        f"same {larger.batch_size * fewer} in an optimizer step: {', '.join(parts)} "
        f"(memory.raise_batch_size = false keeps {train.batch_size})"
    )
