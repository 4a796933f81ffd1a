"""Larger micro-batches with the same triplets in an optimizer step."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace

from llmcausal.config import RunConfig
from llmcausal.launched import process_count
from llmcausal.memory.architecture import layer_count, load_architecture
from llmcausal.memory.kept import (
    SPARE,
    Choice,
    kept_text,
    may_keep,
    most_kept,
    seconds,
    with_kept,
)
from llmcausal.memory.plan import MOST_TRIPLETS, Case, Plan
from llmcausal.memory.prediction import Prediction, Workload, kept_of
from llmcausal.memory.roofline import Card, card_here, card_seconds
from llmcausal.memory.strategies import Candidate
from llmcausal.train.build import contrastive_of_step


@dataclass(frozen=True)
class Raised:
    """Settings with a larger micro-batch, its switches and prediction, and the gain for people."""

    config: RunConfig
    option: Candidate
    prediction: Prediction
    gain: str


def raise_batch_size(
    case: Case, chosen: Plan, workload_of: Callable[[RunConfig], Workload]
) -> Raised | None:
    """Finds a larger micro-batch that fits with the chosen strategy and takes the least time.

    Gradients stay equal to rounding: each triplet's share depends on the whole optimizer step
    alone. Fewer micro-batches read the frozen weights less often and start fewer kernels, but hold
    fewer kept layers.

    Args:
        workload_of: Returns the longest micro-batch of the data under given settings.

    Returns:
        None if no larger one fits and is faster, or `memory.raise_batch_size` does not apply.
    """
    config = case.config
    cases = []
    for size in larger_sizes(config) if chosen.fits and _applies(case, chosen) else []:
        larger = with_batch_size(config, size)
        cases.append(replace(case, config=larger, workload=workload_of(larger)))
    keeps = config.memory.strategy == "auto" and may_keep(case, chosen)
    option = with_kept(chosen.option, 0) if keeps else chosen.option

    def too_large(index: int) -> bool:
        found = cases[index].predicted(option)
        fits = found.needed_bytes <= SPARE * case.budget_bytes
        return not (fits and case.host_holds(found))

    count = bisect_left(range(len(cases)), True, key=too_large)
    best = (config, Choice(chosen.option, chosen.prediction))
    # Kept layers and micro-batches compete for memory, so a smaller micro-batch may be faster. Once
    # it is slower, still smaller ones are not tried.
    for each in reversed(cases[:count]):
        found = most_kept(each, option) if keeps else Choice(option, each.predicted(option))
        made = (each.config, found)
        if best[0] is not config and _step_seconds(made) >= _step_seconds(best):
            break
        best = made if _step_seconds(made) <= _step_seconds(best) else best
    if best[0] is config:
        return None
    larger, found = best
    card = card_here() if case.predictor.device == "cuda" else None
    gain = _gain((config, chosen.prediction), (larger, found.prediction), card)
    if keeps:
        layers = layer_count(case.config.model)
        gain += f"; {kept_text(kept_of(found.option.section, layers), layers)}"
    return Raised(larger, found.option, found.prediction, gain)


def _step_seconds(made: tuple[RunConfig, Choice]) -> float:
    config, found = made
    return config.train.accumulation_steps * seconds(found.prediction)


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
            " to ".join(f"{count * each:.2g}" for each in card_seconds(made.kernels, card))
            for made, count in ((other, fewer), (one, steps))
        ]
        parts.append(f"predicted {times[0]} s instead of {times[1]} s on this {card.name}")
    return (
        f"memory: micro-batches of {larger.batch_size} triplets instead of {train.batch_size}, the "
        f"same {larger.batch_size * fewer} in an optimizer step: {', '.join(parts)} "
        f"(memory.raise_batch_size = false keeps {train.batch_size})"
    )
