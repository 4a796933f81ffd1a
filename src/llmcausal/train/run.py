"""Everything that a run is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from llmcausal.config import RunConfig
from llmcausal.train.batch import EpochBatches, TripletBatch
from llmcausal.train.callback import Callback, TrainState
from llmcausal.train.processes import SINGLE, Processes
from llmcausal.train.recovery import ADVICE, Fallback, Place
from llmcausal.train.step import TripletStep


class Probe(Protocol):
    """Measures at a validation what a loss cannot; disturbs neither modes nor random states."""

    batches: int

    def __call__(self, batch_done: Callable[[], None]) -> dict[str, float]:
        """Returns figures of the model as it is now; calls `batch_done` `batches` times."""
        ...


@dataclass
class Run:
    """Everything that a run is made of; built by `assembly`."""

    config: RunConfig
    run_dir: Path  # exists
    # Trained modules, for switching between training and evaluation mode.
    modules: Sequence[torch.nn.Module]
    step: TripletStep
    batches: EpochBatches
    validation: Sequence[TripletBatch]
    parameters: Sequence[torch.nn.Parameter]  # what the optimizer trains, for clipping
    optimizer: Optimizer
    scheduler: LRScheduler
    scaler: torch.amp.GradScaler  # loss scaler; does nothing but in fp16
    state: TrainState
    callbacks: Sequence[Callback]  # in order of their calls
    device: torch.device
    total_steps: int  # optimizer steps of the whole run
    notes: list[str]  # facts to tell at the start
    probe: Probe | None = None  # adds its figures to each validation
    # Leaner ways to train and to validate, for when memory runs out.
    fallbacks: Mapping[Place, Sequence[Fallback]] = field(default_factory=dict)
    # Says what to change when it runs out with no fallback left. Called last of all, with
    # everything saved and ended; must not raise.
    advice: Callable[[], str] = lambda: ADVICE
    # The group that trains together; only rank 0 has callbacks that write and show.
    processes: Processes = SINGLE
