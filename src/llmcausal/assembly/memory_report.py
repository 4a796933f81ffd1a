"""What `llmcausal profile-memory` tells: a prediction, its plan, limits, costs and advice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llmcausal.assembly.prepare import PreparedData, fetch_model, prepare_data, settle_precision
from llmcausal.assembly.strategy_choice import (
    data_tokens,
    data_workload,
    largest_rows,
    plan_values,
    settled,
    synthetic_tokens,
)
from llmcausal.config import MemorySection, RunConfig
from llmcausal.diagnostics.inputs import is_stored
from llmcausal.errors import UsageError
from llmcausal.memory.advice import (
    MOST_TOKENS,
    MOST_TRIPLETS,
    advise,
    largest_batch,
    largest_length,
    with_length,
)
from llmcausal.memory.budget import (
    Budget,
    Device,
    find_budget,
    needed_bytes,
    traits_here,
    uses_expandable_segments,
)
from llmcausal.memory.flops import (
    ModelShape,
    StepCost,
    Tokens,
    count_tokens,
    measured_flops_per_second,
    model_shape,
    run_time,
    step_cost,
)
from llmcausal.memory.plan import (
    UNKNOWN_SHARED,
    Plan,
    Predict,
    Predictor,
    manual_candidate,
    plan,
)
from llmcausal.memory.prediction import Prediction, Workload
from llmcausal.memory.strategies import COSTS, NAIVE, STRATEGIES
from llmcausal.model.device import choose_device, choose_dtype, expected_dtype
from llmcausal.registry import nearest
from llmcausal.train.batch import collate
from llmcausal.train.build import needs_of
from llmcausal.ui.console import status

MEASURED_STEPS = 3
SWEPT_TOKENS = (512, 1024, 2048, 4096, 8192, 16384)
SWEPT_TRIPLETS = (1, 2, 4, 8)
"""Lengths and micro-batches of `--sweep`, beside those asked for."""


@dataclass(frozen=True)
class MemoryRequest:
    """What is asked for.

    Attributes:
        seq_len: Tokens of each member; nothing: the longest of the data.
        shared: Share of a member that all members begin with; nothing: the data's, or the worst.
        vram_gb: Size of a card that need not be here.
        strategy: One to predict in place of the planner's choice.
        sweep: Whether to plan for a range of lengths and micro-batches too.
        measure: Whether to run real steps.
    """

    seq_len: int | None = None
    shared: float | None = None
    vram_gb: float | None = None
    strategy: str | None = None
    sweep: bool = False
    measure: bool = False


def profile_memory(
    config: RunConfig, request: MemoryRequest, *, predict: Predict | None = None
) -> dict[str, Any]:
    """Predicts a training step, and what fits.

    Returns:
        Plain values, for JSON and for `ui.memory_table`.

    Raises:
        UsageError: If the strategy is unknown.
        ModelError: If the architecture is not known here.
    """
    config = _with_strategy(config, request)
    if config.model.device == "cpu" and request.vram_gb is None:  # it is this machine's
        config, _ = settle_precision(config)
    return _Reporter(config, request, predict).report()


def _with_strategy(config: RunConfig, request: MemoryRequest) -> RunConfig:
    name = request.strategy
    if name is None or name == NAIVE:
        return config
    if name not in STRATEGIES:
        known = (*STRATEGIES, NAIVE)
        raise UsageError(
            f"--strategy {name}: unknown{nearest(name, known)} (known: {', '.join(known)})"
        )
    return settled(config, STRATEGIES[name])


class _Reporter:
    def __init__(self, config: RunConfig, request: MemoryRequest, predict: Predict | None) -> None:
        self.config = config
        self.request = request
        # A profile for "auto" is meant for a GPU, here or elsewhere.
        self.device: Device = "cpu" if config.model.device == "cpu" else "cuda"
        if request.vram_gb is not None:
            self.device = "cuda"
        self.predictor = Predictor(self.device, predict)
        self.budget: Budget = find_budget(config.memory, self.device, card_gb=request.vram_gb)
        self.data = _offline_data(config)
        self.workload, self.source = self._workload()

    def _workload(self) -> tuple[Workload, str]:
        request = self.request
        if request.seq_len is None and self.data is not None:
            workload = data_workload(self.config, self.data.train)
            source = f"the longest of {len(self.data.train)} training triplets"
            if request.shared is None:
                return workload, f"{source} of {self.config.data.train}"
            length = workload.member_tokens
            response = workload.response_tokens
        else:
            source = "--seq-len"
            if request.seq_len is None:
                source = "data.max_length: the tokenizer is not on this machine"
            length = request.seq_len or self.config.data.max_length
            response = min(256, length // 4)
        load = Workload(length, 0, response, self.config.train.batch_size)
        if request.shared is None:
            self.predictor.shared = UNKNOWN_SHARED
            told = ", ".join(map(str, UNKNOWN_SHARED))
            return load, f"{source}; the worst of {told} shared tokens"
        shared = min(int(request.shared * length), length - response - 1)
        return replace(load, shared_tokens=shared), f"{source}; {request.shared:.0%} of it shared"

    def report(self) -> dict[str, Any]:
        with status("Predicting memory"):
            chosen = plan(self.config, self.workload, self.budget.bytes, predictor=self.predictor)
            naive = None
            if self.request.strategy == NAIVE:
                naive = self.predictor(self.config, self.workload, NAIVE)
            limits = self._limits(chosen)
            sweep = self._sweep() if self.request.sweep else []
            advice = self._advice(chosen)
        measured = self._measure(chosen) if self.request.measure else None
        costs, time = self._time(chosen, measured)
        return {
            "model": self.config.model.name,
            "profile": self.config.name,
            "kind": "predicted",
            "fits": needed_bytes(naive) <= self.budget.bytes if naive else chosen.fits,
            "device": self.device,
            "workload": {**asdict(chosen.prediction.workload), "source": self.source},
            "budget": asdict(self.budget),
            "notes": self._notes(),
            "strategy": plan_values(chosen),
            "prediction": _prediction_values(chosen.prediction, self.budget.bytes),
            "naive": naive and _prediction_values(naive, self.budget.bytes),
            "limits": limits,
            "sweep": sweep,
            "costs": costs,
            "time": time,
            "advice": advice,
            "measured": measured,
        }

    def _notes(self) -> list[str]:
        return traits_here().notes(self.config.train.optimizer) if self.device == "cuda" else []

    def _limits(self, chosen: Plan) -> dict[str, int]:
        candidate = manual_candidate(settled(self.config, chosen.switches).memory)
        arguments = (self.config, self.workload, candidate, self.budget.bytes, self.predictor)
        length = largest_length(*arguments)
        return {
            "max_length": length,
            "max_length_searched": MOST_TOKENS,
            "batch_size": largest_batch(*arguments),
            "batch_size_searched": MOST_TRIPLETS,
        }

    def _sweep(self) -> list[dict[str, Any]]:
        """Plans for other lengths, then for other micro-batches of the length asked for."""
        load = self.workload
        lengths = sorted({*SWEPT_TOKENS, load.member_tokens})
        sizes = sorted({*SWEPT_TRIPLETS, load.triplets} - {load.triplets})
        loads = [with_length(load, tokens) for tokens in lengths]
        loads += [replace(load, triplets=triplets) for triplets in sizes]
        return [self._swept(each) for each in loads]

    def _swept(self, workload: Workload) -> dict[str, Any]:
        chosen = plan(self.config, workload, self.budget.bytes, predictor=self.predictor)
        return {
            "member_tokens": workload.member_tokens,
            "triplets": workload.triplets,
            "strategy": chosen.name,
            "predicted_bytes": chosen.needed_bytes,
            "host_bytes": chosen.prediction.host_bytes,
            "fits": chosen.fits,
        }

    def _advice(self, chosen: Plan) -> list[dict[str, Any]]:
        if chosen.fits:
            return []
        found = advise(self.config, self.workload, self.budget.bytes, predictor=self.predictor)
        return [
            {
                "change": entry.change,
                "arguments": entry.arguments,
                "predicted_bytes": entry.needed_bytes,
                "fits": entry.fits,
            }
            for entry in found
        ]

    def _time(
        self, chosen: Plan, measured: dict[str, Any] | None
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        shape = self._shape()
        packed = 0
        if self.data is not None:
            tokens, packed = data_tokens(self.config, self.data.train)
        else:
            tokens = synthetic_tokens(self.config.loss, self.workload)
        memory = settled(self.config, chosen.switches).memory
        return (
            self._costs(shape, tokens),
            self._run_time(shape, tokens, packed, memory, measured),
        )

    def _shape(self) -> ModelShape:
        from llmcausal.memory.architecture import load_architecture

        section = self.config.model
        architecture = load_architecture(
            section.name, section.revision, trust_remote_code=section.trust_remote_code
        )
        dtype = expected_dtype(section.precision, self.device)
        return model_shape(architecture, dtype.itemsize)

    def _cost(
        self, shape: ModelShape, tokens: Tokens, memory: MemorySection, name: str
    ) -> StepCost:
        lora = self.config.lora
        return step_cost(
            shape,
            tokens,
            memory,
            rank=lora.rank,
            targets=lora.target_modules,
            strategy=name,
        )

    def _costs(self, shape: ModelShape, tokens: Tokens) -> list[dict[str, Any]]:
        """Counts every strategy against `keep`, whatever the user set."""
        rows = []
        base: float | None = None
        for name in (*STRATEGIES, NAIVE):
            memory = self.config.memory.model_copy(update=STRATEGIES.get(name, {}))
            cost = self._cost(shape, tokens, memory, name)
            base = base or cost.total_flops
            rows.append(
                {
                    "strategy": name,
                    "flops_ratio": cost.total_flops / base,
                    "moved_bytes_per_triplet": cost.moved_bytes / tokens.triplets,
                    "costs": COSTS.get(name, "a full pass per member, with all logits"),
                }
            )
        return rows

    def _run_time(
        self,
        shape: ModelShape,
        tokens: Tokens,
        packed: int,
        memory: MemorySection,
        measured: dict[str, Any] | None,
    ) -> dict[str, Any]:
        cost = self._cost(shape, tokens, memory, "custom")
        rate = None
        here = choose_device("auto" if self.device == "cuda" else "cpu")
        if self.request.vram_gb is None and here.type == self.device:
            rate = measured_flops_per_second(here, choose_dtype(self.config.model.precision, here))
        triplets = self._triplets_of_run()
        pace = None
        if measured and self.data is not None and measured["device"] == self.device:
            pace = (measured["flops_per_second"], 1.0)
        found = run_time(cost, tokens, triplets, memory, flops_per_second=rate, measured=pace)
        return {
            **asdict(found),
            "flops": cost.flops,
            "micro_batches_packed": packed,
            "source": "the data, packed" if packed else "the workload above, packed",
        }

    def _triplets_of_run(self) -> int:
        if self.data is None:
            return 0
        train = self.config.train
        per_step = train.batch_size * train.accumulation_steps
        triplets = len(self.data.train) * train.epochs
        if train.max_steps is not None:
            triplets = min(triplets, train.max_steps * per_step)
        return triplets

    def _measure(self, chosen: Plan) -> dict[str, Any]:
        """Runs real steps on the largest micro-batch of the data, on the device at hand."""
        from llmcausal.assembly.measuring import measure_triplets

        config = settled(self.config, chosen.switches)
        rows = largest_rows(config, (self.data or prepare_data(config, answer=False)).train)
        fetch_model(config.model)
        with status("Measuring real steps"):
            measured = measure_triplets(
                config, rows, steps=MEASURED_STEPS, snapshot=_snapshot_file(config)
            )
        device: Device = "cuda" if measured.device == "cuda" else "cpu"
        predictor = Predictor(device, self.predictor.function)
        with status("Predicting the same steps"):
            predicted = predictor(config, measured.workload)
        tokens = count_tokens([collate(rows, needs_of(config.loss), config.loss.pooling)])
        flops = self._cost(self._shape(), tokens, config.memory, "custom").total_flops
        micro_batches = min(2, config.train.accumulation_steps)
        rate = micro_batches * flops / measured.step_seconds
        return {
            **asdict(measured),
            "flops_per_second": rate,
            "predicted_allocated_bytes": predicted.allocated_bytes,
            "predicted_reserved_bytes": predicted.reserved_bytes,
            "error": predicted.allocated_bytes / measured.allocated_peak_bytes - 1,
        }


def _snapshot_file(config: RunConfig) -> Path | None:
    on_cuda = choose_device(config.model.device).type == "cuda"
    return Path(f"memory-{config.name}.pickle").absolute() if on_cuda else None


def _offline_data(config: RunConfig) -> PreparedData | None:
    """Reads and encodes the data if the tokenizer is on this machine."""
    return prepare_data(config, answer=False) if is_stored(config.model) else None


def _prediction_values(prediction: Prediction, budget_bytes: int) -> dict[str, Any]:
    needed = needed_bytes(prediction)
    values = asdict(replace(prediction, timeline=()))
    return {
        **values,
        "timeline": [asdict(moment) for moment in _thinned(prediction.timeline)],
        "expandable_segments": uses_expandable_segments(),
        "total_bytes": needed,
        "margin_bytes": budget_bytes - needed,
        "fits": needed <= budget_bytes,
    }


def _thinned(timeline: Sequence[Any], most: int = 400) -> list[Any]:
    stride = max(1, -(-len(timeline) // most))
    peak = max(timeline, key=lambda moment: sum(moment.allocated_bytes.values()), default=None)
    return [
        moment for index, moment in enumerate(timeline) if index % stride == 0 or moment is peak
    ]
