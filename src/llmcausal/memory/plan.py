"""Chooses the fastest strategy whose prediction fits, before any weight is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from llmcausal.config import MemorySection, RunConfig
from llmcausal.memory.budget import Device, needed_bytes
from llmcausal.memory.prediction import Prediction, Workload
from llmcausal.memory.strategies import (
    COSTS,
    NAIVE,
    STRATEGIES,
    Candidate,
    candidates,
    switches_of,
)

Progress = Callable[[str], None]


class Predict(Protocol):
    """Predicts a step; `memory.symbolic.predict` is one."""

    def __call__(
        self,
        config: RunConfig,
        workload: Workload,
        *,
        device: Device,
        strategy: str = "custom",
        progress: Progress | None = None,
    ) -> Prediction:
        """Predicts one step of `workload` under the switches of `config.memory`."""


@dataclass
class Predictor:
    """Predicts, and never the same thing twice.

    Attributes:
        device: What is predicted for.
        function: Makes a prediction; nothing: `memory.symbolic.predict`.
        progress: Told what is being predicted.
        made: Predictions that were computed.
    """

    device: Device
    function: Predict | None = None
    progress: Progress | None = None
    made: int = 0
    _known: dict[str, Prediction] = field(default_factory=dict)

    def __call__(
        self, config: RunConfig, workload: Workload, strategy: str = "custom"
    ) -> Prediction:
        """Returns the prediction, computed or remembered."""
        key = _identity(config, workload, strategy)
        if key not in self._known:
            if self.function is None:
                from llmcausal.memory.symbolic import predict

                self.function = predict
            self._known[key] = self.function(
                config, workload, device=self.device, strategy=strategy, progress=self.progress
            )
            self.made += 1
        return replace(self._known[key], strategy=strategy)


def _identity(config: RunConfig, workload: Workload, strategy: str) -> str:
    sections = config.model_dump(mode="json", include={"model", "lora", "loss", "train"})
    switches = NAIVE if strategy == NAIVE else switches_of(config.memory)
    return json.dumps([sections, switches, vars(workload)], sort_keys=True)


@dataclass(frozen=True)
class Attempt:
    """One strategy that was predicted.

    Attributes:
        name: Of the candidate.
        needed_bytes: What it takes of the budget.
        host_bytes: What it takes of the host's memory.
        fits: Whether both are there.
    """

    name: str
    needed_bytes: int
    host_bytes: int
    fits: bool


@dataclass(frozen=True)
class Plan:
    """What was chosen.

    Attributes:
        name: The strategy; of least memory where none fits.
        switches: Its `[memory]` settings.
        prediction: What it takes.
        reason: Why this one, for people.
        tried: What was predicted, fastest first.
        budget_bytes: What was to be kept.
        fits: Whether it was.
    """

    name: str
    switches: dict[str, Any]
    prediction: Prediction
    reason: str
    tried: tuple[Attempt, ...]
    budget_bytes: int
    fits: bool

    @property
    def needed_bytes(self) -> int:
        """What the plan takes of the budget."""
        return needed_bytes(self.prediction)

    @property
    def margin_bytes(self) -> int:
        """What is left of the budget; negative where the plan does not fit."""
        return self.budget_bytes - self.needed_bytes


def plan(
    config: RunConfig,
    workload: Workload,
    budget_bytes: int,
    *,
    predictor: Predictor,
    host_budget_bytes: int | None = None,
) -> Plan:
    """Finds the fastest candidate that fits, with as few predictions as a bisection needs.

    Args:
        config: With `memory.strategy` = "manual" only its own switches are predicted.
        workload: The longest micro-batch.
        budget_bytes: Memory of the device.
        predictor: Makes the predictions.
        host_budget_bytes: Memory of the host, if that is a limit.
    """
    if config.memory.strategy == "manual":
        options = [manual_candidate(config.memory)]
    else:
        options = candidates(config.memory, config.model.precision)
    search = _Search(config, workload, budget_bytes, host_budget_bytes, predictor)
    chosen = search.first_that_fits(options)
    fits = search.attempts[chosen].fits
    prediction = search.predictions[chosen]
    return Plan(
        name=options[chosen].name,
        switches=options[chosen].switches,
        prediction=prediction,
        reason=_reason(options, chosen, search.attempts, manual=config.memory.strategy == "manual"),
        tried=tuple(attempt for _, attempt in sorted(search.attempts.items())),
        budget_bytes=budget_bytes,
        fits=fits,
    )


def manual_candidate(memory: MemorySection) -> Candidate:
    """Returns the settings as they stand, under the name of the strategy that they equal."""
    switches = switches_of(memory)
    for name, wanted in STRATEGIES.items():
        if all(switches[switch] == value for switch, value in wanted.items()):
            return Candidate(name, name, memory)
    return Candidate("as set by hand", "custom", memory)


class _Search:
    def __init__(
        self,
        config: RunConfig,
        workload: Workload,
        budget_bytes: int,
        host_budget_bytes: int | None,
        predictor: Predictor,
    ) -> None:
        self.config = config
        self.workload = workload
        self.budget_bytes = budget_bytes
        self.host_budget_bytes = host_budget_bytes
        self.predictor = predictor
        self.predictions: dict[int, Prediction] = {}
        self.attempts: dict[int, Attempt] = {}

    def first_that_fits(self, options: Sequence[Candidate]) -> int:
        """Returns the index of the fastest that fits, else that of the leanest.

        Device memory falls along the list, so that half of it is ruled out by each prediction.
        Host memory does not: from the first that fits the device on, it is looked at one by one.
        """
        low, high = 0, len(options) - 1
        while low < high:
            middle = (low + high) // 2
            if self._needed(options, middle) <= self.budget_bytes:
                high = middle
            else:
                low = middle + 1
        for index in range(low, len(options)):
            self._needed(options, index)
            if self.attempts[index].fits:
                return index
        return len(options) - 1

    def _needed(self, options: Sequence[Candidate], index: int) -> int:
        if index not in self.attempts:
            option = options[index]
            config = self.config.model_copy(update={"memory": option.section})
            prediction = self.predictor(config, self.workload, option.strategy)
            needed = needed_bytes(prediction)
            host_fits = (
                self.host_budget_bytes is None or prediction.host_bytes <= self.host_budget_bytes
            )
            self.predictions[index] = prediction
            self.attempts[index] = Attempt(
                option.name,
                needed,
                prediction.host_bytes,
                needed <= self.budget_bytes and host_fits,
            )
        return self.attempts[index].needed_bytes


def _reason(
    options: Sequence[Candidate], chosen: int, attempts: dict[int, Attempt], *, manual: bool
) -> str:
    attempt = attempts[chosen]
    needed = f"{attempt.needed_bytes / 2**30:.2f} GiB"
    if manual:
        return f"memory.strategy = manual; predicted {needed}"
    if not attempt.fits:
        return f"nothing fits; this is the leanest, predicted {needed}"
    if chosen == 0:
        return f"the fastest, and it fits: predicted {needed}"
    reason = f"the fastest that fits: predicted {needed}"
    if (faster := attempts.get(chosen - 1)) is not None:
        reason += f", where {faster.name} needs {faster.needed_bytes / 2**30:.2f} GiB"
    cost = COSTS.get(options[chosen].strategy)
    return f"{reason}; it costs: {cost}" if cost else reason
