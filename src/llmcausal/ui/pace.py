"""How long the rest of a run takes, from what was measured in this session and nothing else."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from llmcausal.train.callback import Callback, FitContext, Record
from llmcausal.ui.figures import duration

RECENT_STEPS = 20
FORECAST_AFTER = 5
"""Steps measured before a run says how long it will take; the first ones are slow."""
FORWARD_SHARE = 0.4
"""Time a token to answer, as a share of that to train: no backward pass, but small products."""


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


class Forecast(Callback):
    """Adds a note after the first steps: how long the whole run will take, by their pace.

    Args:
        answered_tokens: Tokens of the final evaluation's prompts and longest answers, of all sides.
        clock: Seconds from any start, never going back.
    """

    def __init__(self, answered_tokens: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._answered = answered_tokens
        self._pace = Pace(clock)
        self._steps: list[tuple[float, int]] = []

    def on_validation_start(self, context: FitContext, batches: int) -> None:
        """Times validations."""
        self._pace.validation_started()

    def on_record(self, context: FitContext, record: Record) -> None:
        """Notes the forecast once enough steps were measured."""
        self._pace.step_ended(record)
        if "seconds" in record:
            self._steps.append((record["seconds"], record["tokens"]))
        if len(self._steps) != FORECAST_AFTER:
            return
        left = self._pace.eta_seconds(context) or 0.0
        warm = self._steps[1:]
        a_token = sum(seconds for seconds, _ in warm) / sum(tokens for _, tokens in warm)
        evaluation = FORWARD_SHARE * a_token * self._answered
        parts = f"training {duration(left)}"
        if self._answered:
            parts += f", evaluation {duration(evaluation)}"
        context.notes.append(
            f"about {duration(left + evaluation)} more, by the pace of the first "
            f"{FORECAST_AFTER} steps: {parts}"
        )
