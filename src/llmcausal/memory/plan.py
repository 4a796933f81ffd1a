"""Chooses the fastest strategy whose prediction fits, and finds what would fit if none does."""

from __future__ import annotations

import json
import shlex
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from llmcausal.config import RunConfig
from llmcausal.memory import prediction
from llmcausal.memory.budget import GIB
from llmcausal.memory.prediction import NAIVE, Device, Prediction, Workload, switches_of
from llmcausal.memory.strategies import COSTS, Candidate, candidates, manual_candidate

UNKNOWN_SHARED = (0, 1, 64)
"""Shared prefixes that stand for one that nobody named. With the first shared token masks and
repeated key heads appear; with every further one the tree shrinks. Which of these needs most, with
what the allocator wastes, differs by strategy."""


@dataclass
class Predictor:
    """Predicts, and never the same thing twice.

    Attributes:
        device: What is predicted for.
        function: Makes a prediction; None: `memory.prediction.predict`.
        shared: Shared prefixes to predict where the workload's is not known, in place of it; the
            one that needs most counts.
    """

    device: Device
    function: Callable[..., Prediction] | None = None
    shared: tuple[int, ...] = ()
    _known: dict[str, Prediction] = field(default_factory=dict)

    def __call__(
        self, config: RunConfig, workload: Workload, strategy: str = "custom"
    ) -> Prediction:
        """Returns the prediction, computed or remembered."""
        loads = [workload]
        # Separate passes share nothing, whatever their members do.
        if self.shared and strategy != NAIVE and config.memory.members == "tree":
            most = workload.member_tokens - 1
            loads = [replace(workload, shared_tokens=min(each, most)) for each in self.shared]
        made = (self._one(config, load, strategy) for load in loads)
        return max(made, key=lambda each: each.needed_bytes)

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
    """The longest micro-batch of a run, and the memory that it must fit."""

    config: RunConfig
    workload: Workload
    budget_bytes: int
    predictor: Predictor
    host_budget_bytes: int | None = None

    def predicted(self, option: Candidate, workload: Workload | None = None) -> Prediction:
        """Predicts the micro-batch, or another one, under a candidate's switches."""
        config = self.config.model_copy(update={"memory": option.section})
        return self.predictor(config, workload or self.workload, option.strategy)


@dataclass(frozen=True)
class Attempt:
    """One strategy that was predicted; it fits if device and host have the memory."""

    name: str
    needed_bytes: int
    host_bytes: int
    fits: bool


@dataclass(frozen=True)
class Plan:
    """The chosen strategy, the one of least memory where none fits.

    Attributes:
        switches: Its `[memory]` settings.
        reason: Why this one, for people.
        tried: What was predicted, fastest first.
    """

    name: str
    switches: dict[str, Any]
    prediction: Prediction
    reason: str
    tried: tuple[Attempt, ...]
    fits: bool

    def values(self) -> dict[str, Any]:
        """Returns what was chosen, why, and what else was predicted, as plain values."""
        return {
            "name": self.name,
            "switches": self.switches,
            "reason": self.reason,
            "tried": [asdict(attempt) for attempt in self.tried],
        }


def plan(case: Case) -> Plan:
    """Finds the fastest candidate that fits, else the leanest, in few predictions.

    With `memory.strategy` = "manual" only its own switches are predicted.
    """
    memory = case.config.memory
    manual = memory.strategy == "manual"
    options = [manual_candidate(memory)] if manual else candidates(memory)
    attempts: dict[int, Attempt] = {}

    def attempt(index: int) -> Attempt:
        found, limit = case.predicted(options[index]), case.host_budget_bytes
        needed, host = found.needed_bytes, found.host_bytes
        fits = needed <= case.budget_bytes and (limit is None or host <= limit)
        attempts[index] = Attempt(options[index].name, needed, host, fits)
        return attempts[index]

    def fits_device(index: int) -> bool:
        return attempt(index).needed_bytes <= case.budget_bytes

    # Device memory falls along the list, so that each prediction rules out half of it. Host memory
    # does not: from the first that fits the device on, each is tried.
    last = len(options) - 1
    first = bisect_left(range(last), True, key=fits_device)
    chosen = next((index for index in range(first, last + 1) if attempt(index).fits), last)
    return Plan(
        name=options[chosen].name,
        switches=options[chosen].switches,
        prediction=case.predicted(options[chosen]),
        reason=_reason(options[chosen].strategy, chosen, attempts, manual=manual),
        tried=tuple(attempts[index] for index in sorted(attempts)),
        fits=attempts[chosen].fits,
    )


def _reason(strategy: str, chosen: int, attempts: dict[int, Attempt], *, manual: bool) -> str:
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
    cost = COSTS.get(strategy)
    return f"{reason}; it costs: {cost}" if cost else reason


LENGTH_STEP = 64
"""Lengths looked at are multiples of it."""
LENGTH_TOLERANCE = 1 / 32
"""Share of a length to within which it is found."""
MOST_TOKENS = 16384
MOST_TRIPLETS = 8
"""Not searched beyond: a prediction takes time in proportion."""


def largest_that_fits(
    needed: Callable[[int], int],
    budget_bytes: int,
    *,
    start: int,
    step: int,
    most: int,
    tolerance: float = 0.0,
) -> int:
    """Finds the largest multiple of `step` up to `most` for which `needed` is within the budget.

    Memory is close to a straight line in the size, so each guess is where the line through the
    nearest two known sizes meets the budget; the result itself was always evaluated.

    Args:
        needed: Bytes at a size; must not fall as the size grows.
        budget_bytes: Most that may be needed.
        start: Size to begin at.
        step: Sizes looked at are its multiples.
        most: Largest size looked at.
        tolerance: Share by which a size may be larger than the result and fit as well.

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
        if guess in known:  # the line stops short: settle the neighbour
            guess = fits + near if guess <= fits else too_large - near
    return max(fits + 1, min(guess, too_large - 1))


def with_length(workload: Workload, tokens: int) -> Workload:
    """Returns the workload at another length; the shared part and the responses scale with it."""
    ratio = tokens / workload.member_tokens
    shared = min(int(workload.shared_tokens * ratio), tokens - 2)
    response = max(1, min(workload.response_tokens, tokens - shared - 1))
    return replace(
        workload, member_tokens=tokens, shared_tokens=max(shared, 0), response_tokens=response
    )


def largest_length(case: Case, option: Candidate) -> int:
    """Finds the most tokens of a member that fit under a candidate's switches; 0 for none.

    To within `LENGTH_TOLERANCE`; that the length itself fits was predicted.
    """
    return largest_that_fits(
        lambda tokens: case.predicted(option, with_length(case.workload, tokens)).needed_bytes,
        case.budget_bytes,
        start=case.workload.member_tokens,
        step=LENGTH_STEP,
        most=MOST_TOKENS,
        tolerance=LENGTH_TOLERANCE,
    )


def largest_batch(case: Case, option: Candidate) -> int:
    """Finds the most triplets in a micro-batch that fit under a candidate's switches."""
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

_Change = tuple[str, str, dict[str, Any]]
"""What a change is, for people, and the section and values that it sets."""


@dataclass(frozen=True)
class Advice:
    """A change of `key=value` settings, what it is and costs for people, and what it predicts."""

    change: str
    settings: tuple[str, ...]
    prediction: Prediction
    fits: bool

    @property
    def arguments(self) -> str:
        """The settings as they are typed after `llmcausal train PROFILE`."""
        return typed(self.settings)

    def __str__(self) -> str:
        fits = "fits" if self.fits else "does not fit"
        needed = f"{self.prediction.needed_bytes / GIB:.2f} GiB"
        return f"  {self.arguments}  predicted {needed}, {fits}: {self.change}"


def typed(settings: Sequence[str]) -> str:
    """Writes `key=value` settings as they are typed after `llmcausal train PROFILE`."""
    return " ".join(f"--set {shlex.quote(setting)}" for setting in settings)


def advise(case: Case) -> list[Advice]:
    """Lists changes that make a run fit, those that cost least first.

    Each is predicted alone, on top of the leanest switches; where none of them fits alone, the
    last entry is all of them together.
    """
    found = _leaner_switches(case)
    if any(entry.fits for entry in found):
        return found
    leanest = candidates(case.config.memory)[-1]
    lean = replace(case, config=case.config.model_copy(update={"memory": leanest.section}))
    changes = _changes(lean.config)
    for change in changes:
        changed = _applied(lean, [change])
        found.append(_advice(changed, leanest.strategy, change[0], _settings([change])))
    found += _shorter(lean, leanest, [])
    if not any(entry.fits for entry in found) and changes:
        together, text = _applied(lean, changes), "all of these together"
        found.append(_advice(together, leanest.strategy, text, _settings(changes)))
        found += _shorter(together, leanest, changes)
    return found


def _advice(case: Case, strategy: str, text: str, settings: Sequence[str]) -> Advice:
    found = case.predictor(case.config, case.workload, strategy)
    return Advice(text, tuple(settings), found, found.needed_bytes <= case.budget_bytes)


def _leaner_switches(case: Case) -> list[Advice]:
    """Offers strategies leaner than what the user set by hand, up to one that fits."""
    memory = case.config.memory
    found: list[Advice] = []
    if memory.strategy == "auto":
        return found
    now = switches_of(memory)
    for option in candidates(memory.model_copy(update=now)):
        changed = {key: value for key, value in option.switches.items() if now[key] != value}
        if not changed:
            continue
        leaner = replace(case, config=case.config.model_copy(update={"memory": option.section}))
        text = f"strategy {option.name}"
        found.append(_advice(leaner, option.strategy, text, _settings([(text, "memory", changed)])))
        if found[-1].fits:
            break
    return found


def _changes(config: RunConfig) -> list[_Change]:
    train, few = config.train, set(FEW_MODULES) < set(config.lora.target_modules)
    one_triplet = "one triplet at a time, the same triplets in an optimizer step"
    single = {"batch_size": 1, "accumulation_steps": train.accumulation_steps * train.batch_size}
    nf4, in_8_bits = {"quantization": "nf4"}, {"optimizer": "paged_adamw_8bit"}
    few_modules = "adapters on the query and value projections only"
    possible: list[tuple[bool, _Change]] = [
        (train.batch_size > 1, (one_triplet, "train", single)),
        (config.model.quantization == "none", ("frozen weights in 4 bits", "model", nf4)),
        (train.optimizer == "adamw", ("states of the optimizer in 8 bits", "train", in_8_bits)),
        (config.lora.rank > LOW_RANK, ("smaller adapters", "lora", {"rank": LOW_RANK})),
        (few, (few_modules, "lora", {"target_modules": FEW_MODULES})),
    ]
    return [change for applies, change in possible if applies]


def _settings(changes: Sequence[_Change]) -> list[str]:
    return [
        f"{section}.{key}={json.dumps(value) if isinstance(value, tuple) else value}"
        for _, section, values in changes
        for key, value in values.items()
    ]


def _applied(case: Case, changes: Sequence[_Change]) -> Case:
    config = case.config
    for _, section, values in changes:
        updated = getattr(config, section).model_copy(update=values)
        config = config.model_copy(update={section: updated})
    triplets = min(case.workload.triplets, config.train.batch_size)
    return replace(case, config=config, workload=replace(case.workload, triplets=triplets))


def _shorter(case: Case, option: Candidate, changes: Sequence[_Change]) -> list[Advice]:
    """Offers the largest length that fits, if there is a shorter one worth training on."""
    tokens = largest_length(case, option)
    if not LEAST_TOKENS <= tokens < case.workload.member_tokens:
        return []
    text = f"members of at most {tokens} tokens: context is shortened, the rest left out"
    text += ", with all of the above" if changes else ""
    shorter = replace(case, workload=with_length(case.workload, tokens))
    settings = [*_settings(changes), f"data.max_length={tokens}"]
    return [_advice(shorter, option.strategy, text, settings)]
