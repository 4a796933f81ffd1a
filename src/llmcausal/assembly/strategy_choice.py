"""The longest micro-batch of a run's data, and the strategy that it is trained with."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llmcausal.assembly.prepare import PreparedData
from llmcausal.config import LossSection, RunConfig
from llmcausal.data.sampler import epoch_order
from llmcausal.data.tokenization import EncodedTriplet
from llmcausal.errors import DoesNotFitError
from llmcausal.memory.advice import advice_lines, advise
from llmcausal.memory.budget import Budget, Device, find_budget, free_host_bytes
from llmcausal.memory.flops import Tokens, count_tokens
from llmcausal.memory.made_up import triplets_of
from llmcausal.memory.plan import Plan, Predict, Predictor, plan
from llmcausal.memory.prediction import Workload
from llmcausal.memory.symbolic import end_child
from llmcausal.model.device import choose_device
from llmcausal.train.batch import collate
from llmcausal.train.build import needs_of
from llmcausal.ui.status import status

MOST_PACKED = 512
"""Triplets whose prefix trees are packed to count tokens; of larger data, an even share is."""


@dataclass(frozen=True)
class Planned:
    """A run's settings with its strategy in place, and what to tell the user.

    Attributes:
        config: The settings.
        notes: For the screen.
        record: The plan and its prediction as plain values; nothing where none was made.
    """

    config: RunConfig
    notes: list[str]
    record: dict[str, Any] | None = None


def plan_run(config: RunConfig, data: PreparedData, *, predict: Predict | None = None) -> Planned:
    """Chooses the strategy of a run before its model is loaded.

    On a CPU the switches stand as they are, unless `memory.budget_gb` is set. The chosen ones are
    written into the settings as if set by hand, so that resuming takes the same.

    Raises:
        DoesNotFitError: If no strategy fits and `memory.force` is off; with the changes that help.
    """
    device: Device = "cuda" if choose_device(config.model.device).type == "cuda" else "cpu"
    if device == "cpu" and config.memory.budget_gb is None:
        return Planned(config, [])
    workload = data_workload(config, data.train)
    budget = find_budget(config.memory, device)
    with status("Predicting memory"):
        predictor = Predictor(device, predict)
        host = free_host_bytes() if device == "cuda" else None
        chosen = plan(config, workload, budget.bytes, predictor=predictor, host_budget_bytes=host)
        if not (chosen.fits or config.memory.force):
            raise DoesNotFitError(refusal(config, chosen, workload, budget, predictor))
    end_child()
    forced = "" if chosen.fits else "; started anyway, by memory.force"
    note = f"memory: strategy {chosen.name}: {chosen.reason}; budget {_gib(budget)}{forced}"
    record = _record(chosen, workload, budget)
    return Planned(settled(config, chosen.switches), [note], record)


def _record(chosen: Plan, workload: Workload, budget: Budget) -> dict[str, Any]:
    prediction = chosen.prediction
    values = plan_values(chosen)
    return {
        "strategy": values.pop("name"),
        **values,
        "fits": chosen.fits,
        "forced": not chosen.fits,
        "budget": asdict(budget),
        "workload": asdict(workload),
        "predicted": {
            "needed_bytes": chosen.needed_bytes,
            "allocated_bytes": prediction.allocated_bytes,
            "reserved_bytes": prediction.reserved_bytes,
            "context_bytes": prediction.context_bytes,
            "host_bytes": prediction.host_bytes,
            "components": prediction.components,
            "peak_phase": prediction.peak_phase,
        },
    }


def plan_values(chosen: Plan) -> dict[str, Any]:
    """Returns what was chosen, why, and what else was predicted, as plain values."""
    return {
        "name": chosen.name,
        "switches": chosen.switches,
        "reason": chosen.reason,
        "tried": [asdict(attempt) for attempt in chosen.tried],
    }


def settled(config: RunConfig, switches: Mapping[str, object]) -> RunConfig:
    """Returns the settings with these `[memory]` switches, as if set by hand."""
    memory = config.memory.model_copy(update={**switches, "strategy": "manual"})
    return config.model_copy(update={"memory": memory})


def refusal(
    config: RunConfig, chosen: Plan, workload: Workload, budget: Budget, predictor: Predictor
) -> str:
    """Writes why a run is refused, and what would make it fit."""
    needed = f"{chosen.needed_bytes / 2**30:.2f} GiB"
    lines = [
        f"This run does not fit: {chosen.name} needs {needed} (predicted), the budget is "
        f"{_gib(budget)}."
    ]
    short_of_host = chosen.needed_bytes <= budget.bytes
    if short_of_host:
        lines = [
            f"This run does not fit: {chosen.name} needs {chosen.prediction.host_bytes / 2**30:.2f}"
            " GiB of host memory (predicted), more than is free."
        ]
    elif advice := advise(config, workload, budget.bytes, predictor=predictor):
        lines += ["What helps, cheapest first:", *advice_lines(advice)]
    lines.append("--set memory.force=true starts it anyway.")
    return "\n".join(lines)


def _gib(budget: Budget) -> str:
    return f"{budget.bytes / 2**30:.2f} GiB ({budget.source})"


def data_workload(config: RunConfig, triplets: Sequence[EncodedTriplet]) -> Workload:
    """Describes the longest micro-batch that these triplets could make, or a longer one.

    Every member counts as long as the longest, and the shared prefix is what makes the tree as
    large as the mean of the largest trees, of as many as a micro-batch holds.
    """
    needs = needs_of(config.loss)
    batch_size = min(config.train.batch_size, len(triplets))
    # A tree has at most the tokens of its members: the largest is looked for among these.
    longest = heapq.nlargest(MOST_PACKED, triplets, key=_tokens)
    batches = [collate([triplet], needs, config.loss.pooling) for triplet in longest]
    nodes = heapq.nlargest(batch_size, (len(batch.tokens) for batch in batches))
    mean = -(-sum(nodes) // len(nodes))
    members = max(len(batch.spans) for batch in batches)
    length = max(triplet.longest for triplet in triplets)
    labels = max(max(batch.label_counts.values(), default=1) for batch in batches)
    shared = 0
    if members > 1:
        shared = max(0, min((members * length - mean) // (members - 1), length - 1))
    return Workload(length, shared, min(labels, length - 1), batch_size)


def _tokens(triplet: EncodedTriplet) -> int:
    return sum(map(len, triplet.members))


def largest_rows(config: RunConfig, triplets: Sequence[EncodedTriplet]) -> list[EncodedTriplet]:
    """Returns the triplets with the largest trees, as many as a micro-batch holds."""
    needs = needs_of(config.loss)

    def size(triplet: EncodedTriplet) -> int:
        return len(collate([triplet], needs, config.loss.pooling).tokens)

    return heapq.nlargest(config.train.batch_size, triplets, key=size)


def data_tokens(config: RunConfig, triplets: Sequence[EncodedTriplet]) -> tuple[Tokens, int]:
    """Packs micro-batches in the order of the first epoch; returns their mean, and how many."""
    size = config.train.batch_size
    order = epoch_order(len(triplets), config.train.seed, 0)
    starts = range(0, len(order), size)
    stride = max(1, len(starts) * size // MOST_PACKED)
    chosen = [order[start : start + size] for start in starts[::stride]]
    needs = needs_of(config.loss)
    batches = (
        collate([triplets[index] for index in rows], needs, config.loss.pooling) for rows in chosen
    )
    return count_tokens(batches), len(chosen)


def synthetic_tokens(loss: LossSection, workload: Workload) -> Tokens:
    """Packs a micro-batch of made-up tokens that is as the workload says."""
    made = triplets_of(workload)
    return count_tokens([collate(made, needs_of(loss), loss.pooling)])
