"""Everything that a run is made of, and what its parts must be able to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from llmcausal.config import RunConfig
from llmcausal.train.batch import TripletBatch
from llmcausal.train.callback import Callback
from llmcausal.train.data_order import Batches
from llmcausal.train.processes import SINGLE, Processes
from llmcausal.train.recovery import ADVICE, Fallback, Place
from llmcausal.train.scoring import StepResult
from llmcausal.train.state import TrainState


class StepFunction(Protocol):
    """What the loop calls for each micro-batch."""

    def __call__(
        self,
        batch: TripletBatch,
        totals: dict[str, int],
        backward: Callable[[torch.Tensor], None] | None = None,
    ) -> StepResult:
        """Returns the micro-batch's share of the step, gone backward from if `backward` is given.

        `backward` may be called several times, on scalars whose gradients add up to the share's.
        """
        ...


class Probe(Protocol):
    """Measures at a validation what a loss cannot; disturbs neither modes nor random states."""

    batches: int

    def __call__(self, batch_done: Callable[[], None]) -> dict[str, float]:
        """Returns figures of the model as it is now; calls `batch_done` `batches` times."""
        ...

    def answer_together(self, batch_size: int) -> None:
        """Sets how many prompts are generated together; `batches` follows."""
        ...


@dataclass
class Run:
    """Everything that a run is made of; built by `assembly`.

    Attributes:
        config: Settings.
        run_dir: Run directory; exists.
        modules: Trained modules, for switching between training and evaluation mode.
        step: Computes a micro-batch.
        batches: Training data.
        validation: Validation batches.
        parameters: What the optimizer trains, for clipping.
        optimizer: With its states.
        scheduler: Learning-rate schedule.
        scaler: Loss scaler; does nothing but in fp16.
        state: Position and totals.
        callbacks: In order of their calls.
        device: Where the model is.
        total_steps: Optimizer steps of the whole run.
        notes: Facts to tell at the start.
        probe: Adds its figures to each validation.
        fallbacks: Leaner ways to train and to validate, for when memory runs out.
        advice: Says what to change when it runs out with no fallback left. Asked last of all,
            with everything saved and ended; must not raise.
        processes: Those that train together; the first alone has callbacks that write and show.
    """

    config: RunConfig
    run_dir: Path
    modules: Sequence[torch.nn.Module]
    step: StepFunction
    batches: Batches
    validation: Sequence[TripletBatch]
    parameters: Sequence[torch.nn.Parameter]
    optimizer: Optimizer
    scheduler: LRScheduler
    scaler: torch.amp.GradScaler
    state: TrainState
    callbacks: Sequence[Callback]
    device: torch.device
    total_steps: int
    notes: list[str]
    probe: Probe | None = None
    fallbacks: Mapping[Place, Sequence[Fallback]] = field(default_factory=dict)
    advice: Callable[[], str] = lambda: ADVICE
    processes: Processes = SINGLE
