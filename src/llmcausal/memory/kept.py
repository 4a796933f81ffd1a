"""Plans how many of the last layers keep their activations while the others recompute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llmcausal.memory.architecture import layer_count
from llmcausal.memory.budget import GIB
from llmcausal.memory.plan import Attempt, Case, Plan, largest_that_fits
from llmcausal.memory.prediction import Prediction, Workload, kept_of
from llmcausal.memory.roofline import Card, card_here, card_seconds, known_cards
from llmcausal.memory.simulation.trace import REAL_LAYERS
from llmcausal.memory.strategies import Candidate, candidates, cost_of

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
        raised: Whether the micro-batch is a larger one.
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
        gained = gain(plain.prediction, best.prediction)
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


def _numbers(case: Case, none: Prediction) -> Sequence[int]:
    """Lists the numbers of kept layers to try.

    Where layers are alike, one run of a few layers serves all numbers from `REAL_LAYERS` on, until
    fewer are left that recompute. Where they differ, each number is a run of all layers.

    Args:
        none: Prediction without kept layers.
    """
    most = _most(case)
    if none.extrapolated or layer_count(case.config.model) <= REAL_LAYERS + 1:
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


def gain(before: Prediction, after: Prediction) -> str:
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
