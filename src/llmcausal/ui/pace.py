"""How long the rest of a run takes, from what was measured in this session and nothing else."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from llmcausal.train.callback import FitContext, Record

RECENT_STEPS = 20


class Pace:
    """Measured times of steps and validations.

    Args:
        clock: Seconds from any start, never going back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._steps: list[float] = []
        self._validation_seconds: float | None = None
        self._validation_began: float | None = None
        self._recorded_at = clock()

    @property
    def step_seconds(self) -> float | None:
        """Mean time of the last 20 steps; None until one was measured."""
        recent = self._steps[-RECENT_STEPS:]
        return sum(recent) / len(recent) if recent else None

    def validation_started(self) -> None:
        """Notes when a validation begins; the step's end ends it."""
        self._validation_began = self._clock()

    def step_ended(self, record: Record) -> None:
        """Takes over the time of the step, and of its validation if it had one."""
        self._recorded_at = self._clock()
        if self._validation_began is not None:
            self._validation_seconds = self._recorded_at - self._validation_began
            self._validation_began = None
        seconds = record.get("seconds")
        if isinstance(seconds, (int, float)) and math.isfinite(seconds):
            self._steps.append(float(seconds))

    def eta_seconds(self, context: FitContext) -> float | None:
        """Returns the time left, validations included; None until a step was measured."""
        step = self.step_seconds
        if step is None:
            return None
        done, total = context.state.step, context.total_steps
        left = (total - done) * step
        every = context.config.validation.every_steps or context.steps_per_epoch
        if self._validation_seconds is not None and every > 0:
            left += (total // every - done // every) * self._validation_seconds
        return max(0.0, left - (self._clock() - self._recorded_at))
