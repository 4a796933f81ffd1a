"""`profile-memory`'s report: a prediction with its plan, limits, costs, advice and real steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llmcausal.config import RunConfig
from llmcausal.data.tokenization import EncodedTriplet
from llmcausal.errors import UsageError
from llmcausal.memory.architecture import empty_model
from llmcausal.memory.budget import find_budget
from llmcausal.memory.flops import ModelShape, measured_flops_per_second, model_shape, step_cost
from llmcausal.memory.measure import measure_triplets
from llmcausal.memory.plan import (
    MOST_TOKENS,
    MOST_TRIPLETS,
    UNKNOWN_SHARED,
    WORST_SHARED,
    Case,
    Plan,
    Predictor,
    advise,
    largest_batch,
    largest_length,
    plan,
    with_length,
)
from llmcausal.memory.prediction import (
    NAIVE,
    Device,
    Prediction,
    Workload,
    traits_here,
    uses_expandable_segments,
)
from llmcausal.memory.roofline import card_seconds, known_cards
from llmcausal.memory.runs import Watch
from llmcausal.memory.spare import keep_layers
from llmcausal.memory.strategies import COSTS, STRATEGIES, settled
from llmcausal.memory.workload import (
    Tokens,
    data_workload,
    first_epoch,
    largest_rows,
    mean_tokens,
    mean_workload,
)
from llmcausal.model.device import choose_device, choose_dtype, expected_dtype
from llmcausal.registry import nearest

MEASURED_STEPS = 3
MOMENTS_SHOWN = 400
SWEPT_TOKENS = (512, 1024, 2048, 4096, 8192, 16384)
SWEPT_TRIPLETS = (1, 2, 4, 8)
"""Lengths and micro-batches of `--sweep`, in addition to the requested ones."""


@dataclass(frozen=True)
class MemoryRequest:
    """The options of `profile-memory`."""

    seq_len: int | None = None  # tokens of each member; None: the longest in the data
    shared: float | None = None  # share of a common prefix; None: the data's, or the worst
    vram_gb: float | None = None
    strategy: str | None = None  # predicted instead of the planner's choice
    sweep: bool = False
    measure: bool = False
    evaluation: bool = False  # predicts an evaluation instead of a training step


def with_strategy(config: RunConfig, name: str | None) -> RunConfig:
    """Returns the settings with `--strategy`'s switches; a `UsageError` if it is unknown."""
    if name is None or name == NAIVE:
        return config
    if name not in STRATEGIES:
        known = (*STRATEGIES, NAIVE)
        raise UsageError(
            f"--strategy {name}: unknown{nearest(name, known)} (known: {', '.join(known)})"
        )
    return settled(config, STRATEGIES[name])


def prediction_values(prediction: Prediction, budget_bytes: int) -> dict[str, Any]:
    """Returns a prediction as plain values, with its share of a budget."""
    needed = prediction.needed_bytes
    timeline = prediction.timeline
    stride = max(1, -(-len(timeline) // MOMENTS_SHOWN))
    peak = max(timeline, key=lambda each: sum(each.allocated_bytes.values()), default=None)
    shown = [each for i, each in enumerate(timeline) if i % stride == 0 or each is peak]
    return {
        **asdict(replace(prediction, timeline=tuple(shown), kernels=())),
        "kernels": prediction.launches,
        "expandable_segments": uses_expandable_segments(),
        "total_bytes": needed,
        "margin_bytes": budget_bytes - needed,
        "fits": needed <= budget_bytes,
    }


@dataclass
class MemoryReport:
    """Predicts a training step, and what fits."""

    config: RunConfig  # `with_strategy`
    request: MemoryRequest
    triplets: Sequence[EncodedTriplet] | None  # None if the tokenizer is not on this machine
    watch: Watch

    def __post_init__(self) -> None:
        config, vram_gb = self.config, self.request.vram_gb
        # "auto" means a GPU, here or elsewhere.
        on_cpu = config.model.device == "cpu" and vram_gb is None
        self.device: Device = "cpu" if on_cpu else "cuda"
        self.budget = find_budget(config.memory, self.device, vram_gb)
        workload, self.source, shared = self._workload()
        predictor = Predictor(self.device, shared=shared)
        case = Case(config, workload, self.budget.bytes, predictor)
        self.case = case.with_settings("data", {"max_length": workload.member_tokens})
        self.tokens, self.packed = self._tokens()

    @property
    def in_16_bits(self) -> bool:
        """Whether the known cards' rates, which are those of 16-bit products, apply."""
        precision = expected_dtype(self.config.model.precision, self.device)
        return self.device == "cuda" and precision.itemsize == 2

    def _workload(self) -> tuple[Workload, str, tuple[int, ...]]:
        """Returns the micro-batch, its source, and the shared prefixes to try if it has none."""
        request, config = self.request, self.config
        if request.seq_len is None and self.triplets is not None:
            workload = data_workload(config, self.triplets)
            source = f"the longest of {len(self.triplets)} training triplets"
            if request.shared is None:
                return workload, f"{source} of {config.data.train}", ()
            length, response = workload.member_tokens, workload.response_tokens
        else:
            source = "--seq-len"
            if request.seq_len is None:
                source = "data.max_length: the tokenizer is not on this machine"
            length = request.seq_len or config.data.max_length
            response = min(256, length // 4)
        load = Workload(length, 0, response, config.train.batch_size)
        if request.shared is None:
            return load, f"{source}; {WORST_SHARED}", UNKNOWN_SHARED
        shared = min(int(request.shared * length), length - response - 1)
        source = f"{source}; {request.shared:.0%} of it shared"
        return replace(load, shared_tokens=shared), source, ()

    def values(self, rows_to_measure: Callable[[], Sequence[EncodedTriplet]]) -> dict[str, Any]:
        """Returns plain values, for JSON and for `ui.memory_table`.

        Args:
            rows_to_measure: Fetches the model and returns the training data for real steps.

        Raises:
            ModelError: If the architecture is unknown.
        """
        case, config = self.case, self.config
        with self.watch("Predicting memory"):
            chosen = plan(case)
            naive = None
            if self.request.strategy == NAIVE:
                naive = case.predictor(config, case.workload, NAIVE)
            limits = {
                "max_length": largest_length(case, chosen.option),
                "max_length_searched": MOST_TOKENS,
                "batch_size": largest_batch(case, chosen.option),
                "batch_size_searched": MOST_TRIPLETS,
            }
            chosen = keep_layers(case, chosen)
            sweep = self._sweep() if self.request.sweep else []
            advice = [] if chosen.fits else advise(case)
        measured = self._measured(chosen, rows_to_measure) if self.request.measure else None
        shape = self._shape()
        on_cuda = self.device == "cuda"
        return {
            "model": config.model.name,
            "profile": config.name,
            "kind": "predicted",
            "fits": naive.needed_bytes <= self.budget.bytes if naive else chosen.fits,
            "device": self.device,
            "workload": {**asdict(chosen.prediction.workload), "source": self.source},
            "budget": asdict(self.budget),
            "notes": traits_here().notes(config.train.optimizer) if on_cuda else [],
            "strategy": chosen.values(),
            "prediction": prediction_values(chosen.prediction, self.budget.bytes),
            "naive": naive and prediction_values(naive, self.budget.bytes),
            "limits": limits,
            "sweep": sweep,
            "costs": self._costs(shape),
            "time": self._time(chosen, shape, measured),
            "advice": [entry.values() for entry in advice],
            "measured": measured,
        }

    def _sweep(self) -> list[dict[str, Any]]:
        """Plans other lengths, then other micro-batches of the requested length."""
        load = self.case.workload
        lengths = sorted({*SWEPT_TOKENS, load.member_tokens})
        sizes = sorted({*SWEPT_TRIPLETS, load.triplets} - {load.triplets})
        loads = [with_length(load, tokens) for tokens in lengths]
        loads += [replace(load, triplets=triplets) for triplets in sizes]
        plans = [(each, plan(replace(self.case, workload=each))) for each in loads]
        return [
            {
                "member_tokens": workload.member_tokens,
                "triplets": workload.triplets,
                "strategy": chosen.option.name,
                "predicted_bytes": chosen.prediction.needed_bytes,
                "host_bytes": chosen.prediction.host_bytes,
                "fits": chosen.fits,
            }
            for workload, chosen in plans
        ]

    def _shape(self) -> ModelShape:
        dtype = expected_dtype(self.config.model.precision, self.device)
        return model_shape(empty_model(self.config.model), dtype.itemsize)

    def _tokens(self) -> tuple[Tokens, int]:
        """Returns an average micro-batch's tokens, and the number of packed micro-batches."""
        loss = self.config.loss
        if self.triplets is None:
            return mean_tokens([self.case.workload.made_up()], loss), 0
        micro_batches = first_epoch(self.config.train, self.triplets)
        return mean_tokens(micro_batches, loss), len(micro_batches)

    def _costs(self, shape: ModelShape) -> list[dict[str, Any]]:
        """Counts every strategy against `keep`, whatever the user set."""
        memory, lora, tokens = self.config.memory, self.config.lora, self.tokens
        costs = {
            name: step_cost(shape, tokens, memory.model_copy(update=switches), lora)
            for name, switches in STRATEGIES.items()
        }
        costs[NAIVE] = step_cost(shape, tokens, memory, lora, naive=True)
        return [
            {
                "strategy": name,
                "flops_ratio": cost.total_flops / costs["keep"].total_flops,
                "moved_bytes_per_triplet": cost.moved_bytes / tokens.triplets,
                "costs": COSTS.get(name, "a full pass per member, with all logits"),
            }
            for name, cost in costs.items()
        ]

    def _time(
        self, chosen: Plan, shape: ModelShape, measured: dict[str, Any] | None
    ) -> dict[str, Any]:
        """Counts a triplet's work, and puts counted work and rates together.

        Returns:
            `floor_seconds` of the run at the rate of a matrix product on the device here,
            `estimate_seconds` at the pace of measured steps, None without them; `predicted` for
            known cards, in 16 bits alone.
        """
        memory, tokens = chosen.option.section, self.tokens
        cost = step_cost(shape, tokens, memory, self.config.lora)
        rate = None
        here = choose_device("auto" if self.device == "cuda" else "cpu")
        if self.request.vram_gb is None and here.type == self.device:
            rate = measured_flops_per_second(here, choose_dtype(self.config.model.precision, here))
        pace = None
        if measured and self.triplets is not None and measured["device"] == self.device:
            pace = measured["flops_per_second"]
        triplets = self._triplets_of_run()
        per_triplet = cost.total_flops / tokens.triplets
        computed = tokens.nodes if memory.members == "tree" else tokens.separate
        return {
            "flops_per_triplet": per_triplet,
            "tokens_per_triplet": computed / tokens.triplets,
            "triplets": triplets,
            "flops_per_second": rate,
            "floor_seconds": rate and triplets * per_triplet / rate,
            "estimate_seconds": pace and triplets * per_triplet / pace,
            "flops": cost.flops,
            "micro_batches_packed": self.packed,
            "source": "the data, packed" if self.packed else "the workload above, packed",
            "predicted": self._predicted_time(chosen, triplets) if self.in_16_bits else None,
        }

    def _predicted_time(self, chosen: Plan, triplets: int) -> dict[str, Any]:
        """Predicts an optimizer step of average micro-batches, and the run, on known cards."""
        found = chosen.prediction
        if self.packed:
            config = settled(self.config, chosen.option.switches)
            with self.watch("Predicting time"):
                found = Predictor(self.device)(config, mean_workload(self.tokens))
        steps = self.config.train.accumulation_steps
        micro_batches = triplets / self.tokens.triplets
        cards = []
        for card in known_cards():
            seconds = card_seconds(found.kernels, card)
            cards.append(
                {
                    "card": card.name,
                    "source": card.source,
                    "step_seconds": [steps * each for each in seconds],
                    "run_seconds": [micro_batches * each for each in seconds] if triplets else None,
                }
            )
        return {
            "workload": asdict(found.workload),
            "kernels_per_step": steps * found.launches,
            "weight_reads_per_step": steps * found.weight_reads,
            "cards": cards,
        }

    def _triplets_of_run(self) -> int:
        if self.triplets is None:
            return 0
        train = self.config.train
        triplets = len(self.triplets) * train.epochs
        if train.max_steps is not None:
            per_step = train.batch_size * train.accumulation_steps
            triplets = min(triplets, train.max_steps * per_step)
        return triplets

    def _measured(
        self, chosen: Plan, rows_to_measure: Callable[[], Sequence[EncodedTriplet]]
    ) -> dict[str, Any]:
        """Runs real steps on the largest micro-batch of the data, on the device at hand."""
        config = settled(self.config, chosen.option.switches)
        rows = largest_rows(config, rows_to_measure())
        on_cuda = choose_device(config.model.device).type == "cuda"
        snapshot = Path(f"memory-{config.name}.pickle").absolute() if on_cuda else None
        with self.watch("Measuring real steps"):
            measured = measure_triplets(config, rows, steps=MEASURED_STEPS, snapshot=snapshot)
        device: Device = "cuda" if measured.device == "cuda" else "cpu"
        with self.watch("Predicting the same steps"):
            predicted = Predictor(device)(config, measured.workload)
        tokens = mean_tokens([rows], config.loss)
        cost = step_cost(self._shape(), tokens, config.memory, config.lora)
        micro_batches = min(2, config.train.accumulation_steps)
        return {
            **asdict(measured),
            "flops_per_second": micro_batches * cost.total_flops / measured.step_seconds,
            "predicted_allocated_bytes": predicted.allocated_bytes,
            "predicted_reserved_bytes": predicted.reserved_bytes,
            "error": predicted.allocated_bytes / measured.allocated_peak_bytes - 1,
        }
