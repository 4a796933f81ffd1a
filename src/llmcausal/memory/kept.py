"""Plans how many of the last layers keep their activations while the others recompute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llmcausal.memory.architecture import load_architecture
from llmcausal.memory.budget import GIB
from llmcausal.memory.plan import Attempt, Case, Plan, largest_that_fits
from llmcausal.memory.prediction import Prediction, Workload, kept_of
from llmcausal.memory.roofline import Card, card_here, card_seconds, known_cards
from llmcausal.memory.strategies import COSTS, Candidate, candidates

SPARE = 0.95
"""What only saves time may need this share of the budget: running out would cost its gain."""
FIRST_GUESS = 7
"""From as many on, one run of the simulation serves every number of kept layers."""


@dataclass(frozen=True)
class Choice:
    """A candidate with its kept layers, and its prediction."""

    option: Candidate
    prediction: Prediction


def keep_layers(case: Case, chosen: Plan) -> Plan:
    """Lets a plan keep the activations of as many last layers as fit, if that saves time.

    Moving weights and inputs to the host costs little, so the leanest strategy that only moves data
    is tried too: what it frees may hold more layers. The shortest predicted time counts.
    """
    layers = layer_count(case)
    if case.config.memory.strategy == "manual":
        kept = kept_of(chosen.option.section, layers)
        told = f"; {kept_text(kept, layers)}" if kept else ""
        return replace(chosen, reason=chosen.reason + told)
    if not may_keep(case, chosen):
        return chosen
    found = [most_kept(case, option) for option in _alternatives(case, chosen.option)]
    best = min(found, key=lambda each: seconds(each.prediction))
    if seconds(best.prediction) >= seconds(chosen.prediction):
        return chosen
    kept = kept_of(best.option.section, layers)
    needed, host = best.prediction.needed_bytes, best.prediction.host_bytes
    name = f"{best.option.name}, {kept} of {layers} layers kept"
    return replace(
        chosen,
        option=best.option,
        prediction=best.prediction,
        reason=_reason(chosen, best, kept, layers),
        tried=(*chosen.tried, Attempt(name, needed, host, True)),
    )


def may_keep(case: Case, chosen: Plan) -> bool:
    """Tells whether the planner may choose the number of kept layers."""
    # Weights that are dequantized once are not in the prediction.
    unpacked = case.predictor.device == "cpu" and case.config.model.unpack_on_cpu
    recomputes = chosen.option.section.activations != "keep"
    return chosen.fits and recomputes and not unpacked and _most(case) > 0


def most_kept(case: Case, option: Candidate) -> Choice:
    """Finds the largest number of kept layers that fits; a candidate with as many."""
    # The worst of several shared prefixes is searched with; the result holds for all of them.
    worst = case.predicted(option).workload
    assert isinstance(worst, Workload)
    known = replace(case, workload=worst, predictor=replace(case.predictor, shared=()))
    limit = round(SPARE * case.budget_bytes)
    kept = largest_that_fits(
        lambda count: known.predicted(with_kept(option, count)).needed_bytes,
        limit,
        start=FIRST_GUESS,
        step=1,
        most=_most(case),
    )
    while True:
        candidate = with_kept(option, kept)
        found = case.predicted(candidate)
        if kept == 0 or (found.needed_bytes <= limit and case.host_holds(found)):
            return Choice(candidate, found)
        kept -= 1


def with_kept(option: Candidate, kept: int) -> Candidate:
    section = option.section.model_copy(update={"kept_layers": kept})
    return replace(option, section=section)


def layer_count(case: Case) -> int:
    return int(load_architecture(case.config.model).get_text_config().num_hidden_layers)


def _most(case: Case) -> int:
    memory = case.config.memory
    limited = "kept_layers" in memory.model_fields_set
    return min(memory.kept_layers, layer_count(case)) if limited else layer_count(case)


def _alternatives(case: Case, option: Candidate) -> Sequence[Candidate]:
    options = candidates(case.config.memory)
    rest = options[options.index(option) :]
    same = ("members", "token_chunk")
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


def _reason(chosen: Plan, best: Choice, kept: int, layers: int) -> str:
    start = chosen.reason
    if best.option.name != chosen.option.name:
        start = f"{chosen.option.name} fits too, but this is faster"
        if best.option.strategy in COSTS:
            start += f", although it costs: {COSTS[best.option.strategy]}"
    needed = f"{best.prediction.needed_bytes / GIB:.2f} GiB"
    gained = gain(chosen.prediction, best.prediction)
    return f"{start}; {kept_text(kept, layers)}: predicted {needed}, and {gained}"
