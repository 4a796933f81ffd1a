"""What would make a run fit: smaller settings, and the largest that fit."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from llmcausal.config import RunConfig
from llmcausal.memory.budget import needed_bytes
from llmcausal.memory.plan import Predictor
from llmcausal.memory.prediction import Prediction, Workload
from llmcausal.memory.strategies import Candidate, candidates, leanest, switches_of

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


def largest_length(
    config: RunConfig,
    workload: Workload,
    candidate: Candidate,
    budget_bytes: int,
    predictor: Predictor,
) -> int:
    """Finds the most tokens of a member that fit under a candidate's switches; 0 for none.

    To within `LENGTH_TOLERANCE`; that the length itself fits was predicted.
    """
    needed = _needed(config, candidate, predictor, partial(with_length, workload))
    start = workload.member_tokens
    return largest_that_fits(
        needed,
        budget_bytes,
        start=start,
        step=LENGTH_STEP,
        most=MOST_TOKENS,
        tolerance=LENGTH_TOLERANCE,
    )


def largest_batch(
    config: RunConfig,
    workload: Workload,
    candidate: Candidate,
    budget_bytes: int,
    predictor: Predictor,
) -> int:
    """Finds the most triplets in a micro-batch that fit under a candidate's switches."""
    needed = _needed(
        config, candidate, predictor, lambda triplets: replace(workload, triplets=triplets)
    )
    return largest_that_fits(
        needed, budget_bytes, start=workload.triplets, step=1, most=MOST_TRIPLETS
    )


def _needed(
    config: RunConfig,
    candidate: Candidate,
    predictor: Predictor,
    of_size: Callable[[int], Workload],
) -> Callable[[int], int]:
    section = config.model_copy(update={"memory": candidate.section})
    return lambda size: needed_bytes(predictor(section, of_size(size), candidate.strategy))


LEAST_TOKENS = 128
"""Shorter members are not advised."""
FEW_MODULES = ("q_proj", "v_proj")
LOW_RANK = 8


@dataclass(frozen=True)
class Advice:
    """One change, or several together.

    Attributes:
        change: What it is and what it costs, for people.
        settings: `key=value` of each setting to change.
        prediction: What the step takes then.
        needed_bytes: The same against the budget.
        fits: Whether that is enough.
    """

    change: str
    settings: tuple[str, ...]
    prediction: Prediction
    needed_bytes: int
    fits: bool

    @property
    def arguments(self) -> str:
        """The settings as they are typed after `llmcausal train PROFILE`."""
        return typed(self.settings)


def typed(settings: Sequence[str]) -> str:
    """Writes `key=value` settings as they are typed after `llmcausal train PROFILE`."""
    return " ".join(f"--set {shlex.quote(setting)}" for setting in settings)


def advise(
    config: RunConfig, workload: Workload, budget_bytes: int, *, predictor: Predictor
) -> list[Advice]:
    """Lists changes, those that cost least first.

    Each is predicted alone, on top of the leanest switches; where none of them fits alone, the
    last entry is all of them together.

    Args:
        config: Settings that do not fit.
        workload: The longest micro-batch.
        budget_bytes: Memory of the device.
        predictor: Makes the predictions.
    """
    return _Adviser(config, workload, budget_bytes, predictor).advise()


def advice_lines(advice: Sequence[Advice]) -> list[str]:
    """Writes advice for an error message, one change a line."""
    return [
        f"  {entry.arguments}  predicted {entry.needed_bytes / 2**30:.2f} GiB, "
        f"{'fits' if entry.fits else 'does not fit'}: {entry.change}"
        for entry in advice
    ]


class _Adviser:
    def __init__(
        self, config: RunConfig, workload: Workload, budget_bytes: int, predictor: Predictor
    ) -> None:
        self.original = config
        self.workload = workload
        self.budget_bytes = budget_bytes
        self.predictor = predictor
        self.candidate = leanest(config.memory)
        self.lean = config.model_copy(update={"memory": self.candidate.section})

    def advise(self) -> list[Advice]:
        found = [*self._leaner_switches()]
        if any(entry.fits for entry in found):
            return found
        changes = self._changes()
        alone = [self._try(self.lean, self.workload, [change]) for change in changes]
        length = self._shorter(self.lean, self.workload)
        found += [*alone, *length]
        if not any(entry.fits for entry in found) and changes:
            found.append(self._try(self.lean, self.workload, changes, last=True))
            config, workload = _applied(self.lean, self.workload, changes)
            found += self._shorter(config, workload, changes)
        return found

    def _leaner_switches(self) -> list[Advice]:
        """Offers strategies leaner than what the user set by hand, up to one that fits."""
        if self.original.memory.strategy == "auto":
            return []
        now = switches_of(self.original.memory)
        found = []
        for option in candidates(self.original.memory.model_copy(update=now)):
            changed = {key: value for key, value in option.switches.items() if now[key] != value}
            if not changed:
                continue
            config = self.original.model_copy(update={"memory": option.section})
            settings = tuple(f"memory.{key}={value}" for key, value in changed.items())
            text = f"strategy {option.name}"
            found.append(self._advice(text, settings, config, self.workload, option.strategy))
            if found[-1].fits:
                break
        return found

    def _changes(self) -> list[_Change]:
        config, changes = self.lean, []
        if config.train.batch_size > 1:
            steps = config.train.accumulation_steps * config.train.batch_size
            changes.append(
                _Change(
                    "one triplet at a time, the same triplets in an optimizer step",
                    {"train": {"batch_size": 1, "accumulation_steps": steps}},
                )
            )
        if config.model.quantization == "none":
            changes.append(_Change("frozen weights in 4 bits", {"model": {"quantization": "nf4"}}))
        if config.train.optimizer == "adamw":
            text = "states of the optimizer in 8 bits"
            changes.append(_Change(text, {"train": {"optimizer": "paged_adamw_8bit"}}))
        if config.lora.rank > LOW_RANK:
            changes.append(_Change("smaller adapters", {"lora": {"rank": LOW_RANK}}))
        if set(FEW_MODULES) < set(config.lora.target_modules):
            text = "adapters on the query and value projections only"
            changes.append(_Change(text, {"lora": {"target_modules": FEW_MODULES}}))
        return changes

    def _shorter(
        self, config: RunConfig, workload: Workload, changes: Sequence[_Change] = ()
    ) -> list[Advice]:
        """Offers the largest length that fits, if there is a shorter one worth training on."""
        tokens = largest_length(config, workload, self.candidate, self.budget_bytes, self.predictor)
        if not LEAST_TOKENS <= tokens < workload.member_tokens:
            return []
        settings = [setting for change in changes for setting in change.settings]
        text = f"members of at most {tokens} tokens: context is shortened, the rest left out"
        return [
            self._advice(
                text + (", with all of the above" if changes else ""),
                (*settings, f"data.max_length={tokens}"),
                config,
                with_length(workload, tokens),
                self.candidate.strategy,
            )
        ]

    def _try(
        self,
        config: RunConfig,
        workload: Workload,
        changes: Sequence[_Change],
        *,
        last: bool = False,
    ) -> Advice:
        changed, load = _applied(config, workload, changes)
        settings = tuple(setting for change in changes for setting in change.settings)
        text = "all of these together" if last else changes[0].text
        return self._advice(text, settings, changed, load, self.candidate.strategy)

    def _advice(
        self,
        text: str,
        settings: tuple[str, ...],
        config: RunConfig,
        workload: Workload,
        strategy: str,
    ) -> Advice:
        prediction = self.predictor(config, workload, strategy)
        needed = needed_bytes(prediction)
        return Advice(text, settings, prediction, needed, needed <= self.budget_bytes)


@dataclass(frozen=True)
class _Change:
    text: str
    values: dict[str, dict[str, Any]]

    @property
    def settings(self) -> list[str]:
        return [
            f"{section}.{key}={json.dumps(value) if isinstance(value, tuple) else value}"
            for section, values in self.values.items()
            for key, value in values.items()
        ]


def _applied(
    config: RunConfig, workload: Workload, changes: Sequence[_Change]
) -> tuple[RunConfig, Workload]:
    for change in changes:
        for section, values in change.values.items():
            updated = getattr(config, section).model_copy(update=values)
            config = config.model_copy(update={section: updated})
    return config, replace(workload, triplets=min(workload.triplets, config.train.batch_size))
