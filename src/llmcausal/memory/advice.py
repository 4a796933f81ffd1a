"""What to change so that a run fits, in the order of what it costs; each with its prediction."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmcausal.config import RunConfig
from llmcausal.memory.budget import needed_bytes
from llmcausal.memory.limits import largest_length, with_length
from llmcausal.memory.plan import Predictor
from llmcausal.memory.prediction import Prediction, Workload
from llmcausal.memory.strategies import candidates, leanest, switches_of

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
