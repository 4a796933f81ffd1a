"""Adds the learning rate of each step to its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from llmcausal.train.callback import Callback, FitContext, Record


class HasParamGroups(Protocol):
    """An optimizer, as far as this callback needs one."""

    @property
    def param_groups(self) -> Sequence[Mapping[str, Any]]:
        """Each with `lr`, and perhaps `name`."""


class LearningRateMonitor(Callback):
    """Adds `learning_rate`, and `learning_rate_<group>` where parameter groups differ.

    The rate is read while the step's gradients are gathered: after the step the scheduler has
    already set the next one. A group is called by its `name`, else by its number.

    Args:
        optimizer: Anything with `param_groups`.
    """

    def __init__(self, optimizer: HasParamGroups) -> None:
        self._optimizer = optimizer
        self._rates: dict[str, float] = {}

    def on_micro_batch(self, context: FitContext, done: int, of: int) -> None:
        """Reads the rates that the coming optimizer step uses."""
        self._rates = {
            str(group.get("name", index)): float(group["lr"])
            for index, group in enumerate(self._optimizer.param_groups)
        }

    def on_step_end(self, context: FitContext, record: Record) -> None:
        """Adds the rates that the step used."""
        rates, self._rates = self._rates, {}
        if not rates:  # the validation before the first step
            return
        record["learning_rate"] = next(iter(rates.values()))
        if len(set(rates.values())) > 1:
            record.update({f"learning_rate_{name}": rate for name, rate in rates.items()})
