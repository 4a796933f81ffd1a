"""Chooses the fastest strategy whose prediction fits, and finds what would fit if none does."""

from __future__ import annotations

import json
import shlex
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from llmcausal.config import RunConfig
from llmcausal.memory import prediction
from llmcausal.memory.architecture import load_architecture
from llmcausal.memory.budget import GIB
from llmcausal.memory.prediction import NAIVE, Device, Prediction, Workload, switches_of
from llmcausal.memory.strategies import COSTS, Candidate, candidates, manual_candidate

UNKNOWN_SHARED = (0, 1, 64)
"""Shared prefixes to predict if the user names none. The first shared token brings masks and
repeated key heads; every further one shrinks the tree. The worst one differs by strategy."""
WORST_SHARED = f"the worst of {', '.join(map(str, UNKNOWN_SHARED))} shared tokens"


@dataclass
class Predictor:
    """Predicts, and remembers its predictions."""

    device: Device
    function: Callable[..., Prediction] | None = None  # None: `memory.prediction.predict`
    # Shared prefixes that replace the workload's, if that is not known; the worst one counts.
    shared: tuple[int, ...] = ()
    _known: dict[str, Prediction] = field(default_factory=dict)

    def __call__(
        self, config: RunConfig, workload: Workload, strategy: str = "custom"
    ) -> Prediction:
        loads = [workload]
        # Separate passes share nothing.
        if self.shared and strategy != NAIVE and config.memory.members == "tree":
            most = workload.member_tokens - 1
            loads = [replace(workload, shared_tokens=min(each, most)) for each in self.shared]
        found = (self._one(config, load, strategy) for load in loads)
        return max(found, key=lambda each: each.needed_bytes)

    def _one(self, config: RunConfig, workload: Workload, strategy: str) -> Prediction:
        sections = config.model_dump(mode="json", include={"model", "lora", "loss", "train"})
        switches = NAIVE if strategy == NAIVE else switches_of(config.memory)
        key = json.dumps([sections, switches, vars(workload)], sort_keys=True)
        if key not in self._known:
            predict = self.function or prediction.predict
            self._known[key] = predict(config, workload, device=self.device, strategy=strategy)
        return replace(self._known[key], strategy=strategy)


@dataclass(frozen=True)
class Case:
    """A run's longest micro-batch, and the memory that it must fit."""

    config: RunConfig
    workload: Workload
    budget_bytes: int
    predictor: Predictor
    host_budget_bytes: int | None = None

    def predicted(self, option: Candidate, workload: Workload | None = None) -> Prediction:
        """Predicts the micro-batch, or another one, under a candidate's switches."""
        config = self.config.model_copy(update={"memory": option.section})
        return self.predictor(config, workload or self.workload, option.strategy)

    def host_holds(self, found: Prediction) -> bool:
        """Tells whether the host has the memory that a prediction needs there."""
        limit = self.host_budget_bytes
        return limit is None or found.host_bytes <= limit

    def with_settings(self, section: str, values: Mapping[str, Any]) -> Case:
        """Changes settings of one section; the micro-batch follows `train.batch_size`."""
        updated = getattr(self.config, section).model_copy(update=values)
        config = self.config.model_copy(update={section: updated})
        triplets = min(self.workload.triplets, config.train.batch_size)
        return replace(self, config=config, workload=replace(self.workload, triplets=triplets))

    def with_length(self, tokens: int) -> Case:
        """Changes `data.max_length`, and the micro-batch with it."""
        workload = with_length(self.workload, tokens)
        return replace(self.with_settings("data", {"max_length": tokens}), workload=workload)


@dataclass(frozen=True)
class Attempt:
    """A predicted strategy; it fits if device and host have the memory."""

    name: str
    needed_bytes: int
    host_bytes: int
    fits: bool


@dataclass(frozen=True)
class Plan:
    """The chosen strategy, or the leanest one if none fits."""

    option: Candidate
    prediction: Prediction
    ground: str  # why this one, for people
    tried: tuple[Attempt, ...]  # all predicted strategies, fastest first
    fits: bool
    cost: str | None = None  # what it costs, for people, if that belongs to the reason

    @property
    def reason(self) -> str:
        return f"{self.ground}; it costs: {self.cost}" if self.cost else self.ground

    def values(self) -> dict[str, Any]:
        """Returns plain values, for JSON."""
        return {
            "name": self.option.name,
            "switches": self.option.switches,
            "reason": self.reason,
            "tried": [asdict(attempt) for attempt in self.tried],
        }


def plan(case: Case) -> Plan:
    """Finds the fastest candidate that fits, else the leanest, in few predictions.

    With `memory.strategy` = "manual", the current switches are the only candidate.
    """
    memory = case.config.memory
    manual = memory.strategy == "manual"
    options = [manual_candidate(memory)] if manual else candidates(memory)
    attempts: dict[int, Attempt] = {}

    def attempt(index: int) -> Attempt:
        found = case.predicted(options[index])
        needed, host = found.needed_bytes, found.host_bytes
        fits = needed <= case.budget_bytes and case.host_holds(found)
        attempts[index] = Attempt(options[index].name, needed, host, fits)
        return attempts[index]

    def fits_device(index: int) -> bool:
        return attempt(index).needed_bytes <= case.budget_bytes

    # Device memory falls along the list, so each prediction rules out half of it. Host memory does
    # not fall, so every candidate after the first that fits the device is tried.
    last = len(options) - 1
    first = bisect_left(range(last), True, key=fits_device)
    chosen = next((index for index in range(first, last + 1) if attempt(index).fits), last)
    fits = attempts[chosen].fits
    return Plan(
        option=options[chosen],
        prediction=case.predicted(options[chosen]),
        ground=_ground(chosen, attempts, manual=manual),
        tried=tuple(attempts[index] for index in sorted(attempts)),
        fits=fits,
        cost=COSTS.get(options[chosen].strategy) if fits and chosen else None,
    )


def _ground(chosen: int, attempts: dict[int, Attempt], *, manual: bool) -> str:
    needed = f"{attempts[chosen].needed_bytes / GIB:.2f} GiB"
    if manual:
        return f"memory.strategy = manual; predicted {needed}"
    if not attempts[chosen].fits:
        return f"nothing fits; this is the leanest, predicted {needed}"
    if chosen == 0:
        return f"the fastest, and it fits: predicted {needed}"
    reason = f"the fastest that fits: predicted {needed}"
    if (faster := attempts.get(chosen - 1)) is not None:
        reason += f", where {faster.name} needs {faster.needed_bytes / GIB:.2f} GiB"
    return reason


LENGTH_STEP = 64
LENGTH_TOLERANCE = 1 / 32
"""The search looks at multiples of the step and ends within this share of the largest length."""
MOST_TOKENS = 16384
MOST_TRIPLETS = 8
"""Limits of the search: a prediction's duration grows with the size."""


def largest_that_fits(
    needed: Callable[[int], int],
    budget_bytes: int,
    *,
    start: int,
    step: int,
    most: int,
    tolerance: float = 0.0,
) -> int:
    """Finds the largest multiple of `step` up to `most` that needs no more than the budget.

    Memory is almost linear in the size. So each guess is where the line through the nearest two
    known sizes meets the budget. The result itself is always evaluated.

    Args:
        needed: Bytes at a size; must not fall as the size grows.
        start: First guess.
        tolerance: The largest size that fits may exceed the result by this share.

    Returns:
        The size, or 0 if not even `step` fits.
    """
    top = most // step
    known = {0: 0}
    fits, too_large = 0, top + 1
    guess = max(1, min(round(start / step), top))
    while too_large - fits > max(1, int(fits * tolerance)):
        known[guess] = needed(guess * step)
        if known[guess] <= budget_bytes:
            fits = guess
        else:
            too_large = guess
        near = max(1, int(fits * tolerance))
        guess = _next_guess(known, fits, too_large, budget_bytes, near)
    return fits * step


def _next_guess(
    known: dict[int, int], fits: int, too_large: int, budget_bytes: int, near: int
) -> int:
    evaluated = sorted(size for size in known if size)
    if len(evaluated) < 2:
        guess = 2 * fits if fits else too_large // 2
    else:
        below = fits if fits else evaluated[0]
        one, other = sorted(evaluated, key=lambda size: abs(size - below))[:2]
        slope = (known[other] - known[one]) / (other - one)
        if slope <= 0:  # rounding hides the slope
            return (fits + too_large) // 2
        guess = one + int((budget_bytes - known[one]) / slope)
        if guess in known:  # the line stops short of an unknown size: try the neighbour
            guess = fits + near if guess <= fits else too_large - near
    return max(fits + 1, min(guess, too_large - 1))


def with_length(workload: Workload, tokens: int) -> Workload:
    """Changes the members' length; the shared part scales with it, responses become shorter."""
    ratio = tokens / workload.member_tokens
    shared = min(int(workload.shared_tokens * ratio), tokens - 2)
    response = max(1, min(workload.response_tokens, tokens - shared - 1))
    return replace(
        workload, member_tokens=tokens, shared_tokens=max(shared, 0), response_tokens=response
    )


def largest_length(case: Case, option: Candidate) -> int:
    """Finds the longest members that fit under a candidate's switches, in tokens; 0 for none."""
    return largest_that_fits(
        lambda tokens: case.predicted(option, with_length(case.workload, tokens)).needed_bytes,
        case.budget_bytes,
        start=case.workload.member_tokens,
        step=LENGTH_STEP,
        most=MOST_TOKENS,
        tolerance=LENGTH_TOLERANCE,
    )


def largest_batch(case: Case, option: Candidate) -> int:
    """Finds the largest micro-batch that fits under a candidate's switches, in triplets."""
    return largest_that_fits(
        lambda count: case.predicted(option, replace(case.workload, triplets=count)).needed_bytes,
        case.budget_bytes,
        start=case.workload.triplets,
        step=1,
        most=MOST_TRIPLETS,
    )


LEAST_TOKENS = 128
"""Shorter members are not advised."""
FEW_MODULES = ("q_proj", "v_proj")
LOW_RANK = 8
ADVISED_SECTIONS = ("memory", "train", "model", "lora", "data")


@dataclass(frozen=True)
class Advice:
    """A change of `key=value` settings, its description and cost for people, and its prediction."""

    change: str
    settings: tuple[str, ...]
    prediction: Prediction
    fits: bool

    @property
    def arguments(self) -> str:
        return typed(self.settings)

    def values(self) -> dict[str, Any]:
        """Returns plain values, for JSON."""
        return {
            "change": self.change,
            "arguments": self.arguments,
            "predicted_bytes": self.prediction.needed_bytes,
            "fits": self.fits,
        }

    def __str__(self) -> str:
        fits = "fits" if self.fits else "does not fit"
        needed = f"{self.prediction.needed_bytes / GIB:.2f} GiB"
        return f"  {self.arguments}  predicted {needed}, {fits}: {self.change}"


def typed(settings: Sequence[str]) -> str:
    """Writes `key=value` settings as the user types them after `llmcausal train PROFILE`."""
    return " ".join(f"--set {shlex.quote(setting)}" for setting in settings)


def changed_settings(before: RunConfig, after: RunConfig) -> tuple[str, ...]:
    """Lists the settings of `ADVISED_SECTIONS` that differ, as `key=value`."""
    old, new = (config.model_dump(mode="json") for config in (before, after))
    return tuple(
        f"{section}.{key}={json.dumps(value) if isinstance(value, list) else value}"
        for section in ADVISED_SECTIONS
        for key, value in new[section].items()
        if value != old[section][key]
    )


def advise(case: Case) -> list[Advice]:
    """Lists changes that make a run fit, cheapest first.

    Each is predicted alone, with the leanest switches. If none of them fits alone, the last entry
    is all of them together.
    """
    memory = case.config.memory
    leanest = candidates(memory)[-1]
    lean = case.with_settings("memory", leanest.switches)
    found: list[Advice] = []
    if memory.strategy == "manual":
        found = _leaner_switches(case)
        if any(entry.fits for entry in found):
            return found
    else:
        case = lean  # the planner chooses these switches without advice

    def add(text: str, changed: Case) -> None:
        found.append(_advice(case, changed, leanest.strategy, text))

    def add_shorter(text: str, changed: Case) -> None:
        tokens = largest_length(changed, leanest)
        if LEAST_TOKENS <= tokens < case.workload.member_tokens:
            shorter = f"members of at most {tokens} tokens: context is shortened, the rest left out"
            add(shorter + text, changed.with_length(tokens))

    changes = list(_changes(lean.config))
    together = lean
    for text, section, values in changes:
        add(text, lean.with_settings(section, values))
        together = together.with_settings(section, values)
    add_shorter("", lean)
    if changes and not any(entry.fits for entry in found):
        add("all of these together", together)
        add_shorter(", with all of the above", together)
    return found


def _advice(before: Case, after: Case, strategy: str, text: str) -> Advice:
    found = after.predictor(after.config, after.workload, strategy)
    settings = changed_settings(before.config, after.config)
    return Advice(text, settings, found, found.needed_bytes <= after.budget_bytes)


def _leaner_switches(case: Case) -> list[Advice]:
    """Offers strategies leaner than the switches set by hand, up to the first that fits."""
    found: list[Advice] = []
    now = switches_of(case.config.memory)
    for option in candidates(case.config.memory.model_copy(update=now)):
        if option.switches != now:
            leaner = case.with_settings("memory", option.switches)
            found.append(_advice(case, leaner, option.strategy, f"strategy {option.name}"))
            if found[-1].fits:
                break
    return found


def _changes(config: RunConfig) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yields each change's description, section and values."""
    train, targets = config.train, set(config.lora.target_modules)
    if train.batch_size > 1:
        text = "one triplet at a time, the same triplets in an optimizer step"
        steps = train.accumulation_steps * train.batch_size
        yield text, "train", {"batch_size": 1, "accumulation_steps": steps}
    # Weights that another program stored quantized cannot be quantized again.
    if config.model.quantization == "none" and not hasattr(
        load_architecture(config.model), "quantization_config"
    ):
        yield "frozen weights in 4 bits", "model", {"quantization": "nf4"}
    if train.optimizer == "adamw":
        yield "optimizer states in 8 bits", "train", {"optimizer": "paged_adamw_8bit"}
    if config.lora.rank > LOW_RANK:
        yield "smaller adapters", "lora", {"rank": LOW_RANK}
    if set(FEW_MODULES) < targets:
        text = "adapters on the query and value projections only"
        yield text, "lora", {"target_modules": FEW_MODULES}
