"""Spends the memory that a plan leaves over: on kept layers, and on larger micro-batches.

Kept layers keep their activations while the others recompute.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from llmcausal.config import RunConfig
from llmcausal.launched import process_count
from llmcausal.memory.architecture import layer_count, load_architecture
from llmcausal.memory.budget import GIB
from llmcausal.memory.plan import MOST_TRIPLETS, Attempt, Case, Plan, largest_that_fits
from llmcausal.memory.prediction import Prediction, Workload, kept_of
from llmcausal.memory.roofline import Card, card_here, card_seconds, known_cards
from llmcausal.memory.simulation.trace import REAL_LAYERS
from llmcausal.memory.strategies import Candidate, candidates, cost_of
from llmcausal.train.build import contrastive_of_step

SPARE = 0.95
"""What only saves time may need this share of the budget: running out would cost its gain."""
QUARTERS = 4
"""Where layers differ, as many equal steps to all of them are tried: each runs every layer."""


@dataclass(frozen=True)
class Choice:
    """A candidate with its kept layers, and its prediction."""

    option: Candidate
    prediction: Prediction


def keep_layers(case: Case, chosen: Plan) -> Plan:
    """Lets a plan keep the activations of as many last layers as fit, if that saves time.

    Moving embeddings and inputs to the host costs little, so the leanest strategy that only moves
    these is tried too: what it frees may hold more layers. The shortest predicted time counts.
    """
    manual = case.config.memory.strategy == "manual"
    if may_keep(case, chosen) and not manual:
        found = [most_kept(case, option) for option in _alternatives(case, chosen.option)]
        best = min(found, key=lambda each: seconds(each.prediction))
        if seconds(best.prediction) < seconds(chosen.prediction):
            return taken(case, chosen, best)
    layers = layer_count(case.config.model)
    kept = kept_of(chosen.option.section, layers)
    told = f"; {kept_text(kept, layers)}" if kept else ""
    return replace(chosen, ground=chosen.ground + told + _unused(case, chosen.option))


def taken(case: Case, plain: Plan, best: Choice, *, raised: bool = False) -> Plan:
    """Returns the plan of a run that takes other switches, or larger micro-batches.

    Args:
        case: With the micro-batch that is taken.
        plain: The plan without kept layers, for the profile's micro-batch.
    """
    layers, option = layer_count(case.config.model), best.option
    kept = kept_of(option.section, layers)
    name, ground = option.name, plain.ground
    if name != plain.option.name:
        ground = f"{plain.option.name} fits too, but this is faster"
    if option.section.activations != "keep":
        name += f", {kept} of {layers} layers kept"
        ground += f"; {kept_text(kept, layers)}"
    needed, host = best.prediction.needed_bytes, best.prediction.host_bytes
    size = case.config.train.batch_size
    if raised:
        name += f", {size} triplets"
        ground += f"; with {size} triplets in a micro-batch, predicted {needed / GIB:.2f} GiB"
    else:
        gained = _gain_of_keeping(plain.prediction, best.prediction)
        ground += f": predicted {needed / GIB:.2f} GiB, and {gained}"
    manual = case.config.memory.strategy == "manual"
    return replace(
        plain,
        option=option,
        prediction=best.prediction,
        ground=ground + _unused(case, option),
        tried=(*plain.tried, Attempt(name, needed, host, True)),
        cost=None if manual else cost_of(option.strategy, kept, layers),
    )


def may_keep(case: Case, chosen: Plan) -> bool:
    """Tells whether the planner may choose the number of kept layers."""
    recomputes = chosen.option.section.activations != "keep"
    return chosen.fits and recomputes and not _unpacks(case) and _most(case) > 0


def _unpacks(case: Case) -> bool:
    """Tells whether weights are dequantized once, which the prediction leaves out."""
    return case.predictor.device == "cpu" and case.config.model.unpack_on_cpu


def _unused(case: Case, option: Candidate) -> str:
    """Explains why a number set by hand is not reached; "" where it is."""
    memory, layers = case.config.memory, layer_count(case.config.model)
    kept = kept_of(option.section, layers)
    if "kept_layers" not in memory.model_fields_set or kept >= min(memory.kept_layers, layers):
        return ""
    why = "no more fit"
    if option.section.activations == "keep":
        why = "every layer keeps its activations"
    elif _unpacks(case):
        why = "the planner keeps some on a CPU only with model.unpack_on_cpu = false"
    return f"; of memory.kept_layers = {memory.kept_layers}, it uses {kept}: {why}"


def most_kept(case: Case, option: Candidate) -> Choice:
    """Finds the largest number of kept layers that fits; a candidate with as many."""
    # The worst of several shared prefixes is searched with; the result holds for all of them.
    none = case.predicted(option)
    worst = none.workload
    assert isinstance(worst, Workload)
    known = replace(case, workload=worst, predictor=replace(case.predictor, shared=()))
    limit = round(SPARE * case.budget_bytes)
    numbers = _numbers(case, none)
    index = largest_that_fits(
        lambda index: known.predicted(with_kept(option, numbers[index])).needed_bytes,
        limit,
        start=REAL_LAYERS,
        step=1,
        most=len(numbers) - 1,
    )
    while True:
        candidate = with_kept(option, numbers[index])
        found = case.predicted(candidate)
        if index == 0 or (found.needed_bytes <= limit and case.host_holds(found)):
            return Choice(candidate, found)
        index -= 1


def _numbers(case: Case, none_kept: Prediction) -> Sequence[int]:
    """Lists the numbers of kept layers to try.

    Where layers are alike, one run of a few layers serves all numbers from `REAL_LAYERS` on, until
    fewer are left that recompute. Where they differ, each number is a run of all layers.
    """
    most = _most(case)
    if none_kept.extrapolated or layer_count(case.config.model) <= REAL_LAYERS + 1:
        return range(most + 1)
    return sorted({most * quarter // QUARTERS for quarter in range(QUARTERS + 1)})


def with_kept(option: Candidate, kept: int) -> Candidate:
    section = option.section.model_copy(update={"kept_layers": kept})
    return replace(option, section=section)


def _most(case: Case) -> int:
    memory = case.config.memory
    layers = layer_count(case.config.model)
    return min(memory.kept_layers, layers) if "kept_layers" in memory.model_fields_set else layers


def _alternatives(case: Case, option: Candidate) -> Sequence[Candidate]:
    """Returns a candidate, and the leanest one that moves more than it, but not the head.

    A run's model also answers, and a head on the host crosses for every token of the answers. That
    is not in a step's predicted time.
    """
    options = candidates(case.config.memory)
    rest = options[options.index(option) :]
    same = ("members", "token_chunk", "label_chunk", "head")
    moving = [each for each in rest if all(each.switches[s] == option.switches[s] for s in same)]
    found = [option]
    on_gpu = case.predictor.device == "cuda"  # a CPU has no second memory
    if on_gpu and moving[-1] != option and case.host_holds(case.predicted(moving[-1])):
        found.append(moving[-1])
    return found


def card_to_compare() -> Card:
    """Returns this machine's GPU; the smallest known card if that is none of them."""
    return card_here() or known_cards()[0]


def seconds(prediction: Prediction) -> float:
    """Returns the middle of a micro-batch's predicted seconds on a GPU, to compare plans."""
    return sum(card_seconds(prediction.kernels, card_to_compare())) / 2


def kept_text(kept: int, layers: int) -> str:
    if not kept:
        return "it keeps no layer's activations"
    return f"it keeps the activations of the last {kept} of {layers} layers"


def _gain_of_keeping(before: Prediction, after: Prediction) -> str:
    """Compares two predictions of the same micro-batch, for people."""
    if before.device == "cpu":
        return f"{1 - _flops(after) / _flops(before):.1%} fewer operations"
    card = card_to_compare()
    less = f"{1 - seconds(after) / seconds(before):.1%} less"
    one, other = (
        " to ".join(f"{each:.3g}" for each in card_seconds(made.kernels, card))
        for made in (after, before)
    )
    return f"{one} s instead of {other} s for the longest micro-batch on an {card.name}, {less}"


def _flops(prediction: Prediction) -> int:
    return sum(kernel.flops * count for kernel, count in prediction.kernels)


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
    gain = _gain_of_size((config, chosen.prediction), (larger, found.prediction), card)
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
    return (
        config.memory.raise_batch_size
        and chosen.option.section.members == "tree"
        and not _unpacks(case)
        and not config.lora.dropout
        and not _has_dropout(config)
        and (contrastive is None or contrastive.per_triplet)
    )


def _has_dropout(config: RunConfig) -> bool:
    values = load_architecture(config.model).get_text_config().to_dict().items()
    return any(value for name, value in values if name.endswith(("dropout", "pdrop")))


Predicted = tuple[RunConfig, Prediction]


def _gain_of_size(before: Predicted, after: Predicted, card: Card | None) -> str:
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
