"""An evaluation's passes on fake tensors: a batch of answers, and a pass over given texts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from llmcausal.config import RunConfig
from llmcausal.memory.prediction import (
    AnswerLoad,
    GpuTraits,
    Prediction,
    Rehearsal,
    Workload,
    switches_of,
)
from llmcausal.memory.simulation.device import simulated_device
from llmcausal.memory.simulation.model import Shape, watch_layers
from llmcausal.memory.simulation.run import (
    FakeModel,
    build_step,
    fake_batch,
    fake_model,
    predicted_by,
)
from llmcausal.memory.simulation.trace import Trace
from llmcausal.memory.workload import READ
from llmcausal.model.device import expected_dtype
from llmcausal.model.placement import base_model
from llmcausal.train.batch import Needs
from llmcausal.train.build import set_memory


def run_answers(
    config: RunConfig, load: AnswerLoad, gpu: GpuTraits | None, rehearsal: Rehearsal
) -> Prediction:
    """Predicts like `memory.prediction.predict_answers`, in this process; no GPU means the CPU."""
    return _run(config, load, gpu, partial(_answer, load, rehearsal))


def run_reading(config: RunConfig, workload: Workload, gpu: GpuTraits | None) -> Prediction:
    """Predicts like `memory.prediction.predict_reading`, in this process."""
    return _run(config, workload, gpu, partial(_read, workload))


def _run(
    config: RunConfig,
    load: AnswerLoad | Workload,
    gpu: GpuTraits | None,
    passes: Callable[[FakeModel], None],
) -> Prediction:
    needs = READ if isinstance(load, Workload) else Needs(frozenset(), frozenset())
    # Nothing stays for a backward pass, so kept layers are like the others.
    memory = config.memory.model_copy(update={"kept_layers": 0})
    alike = config.model_copy(update={"memory": memory})
    found = predicted_by(partial(_traced, alike, gpu, passes), alike, needs, load, gpu, "custom")
    return replace(found, switches=switches_of(config.memory))


def _traced(
    config: RunConfig, gpu: GpuTraits | None, passes: Callable[[FakeModel], None], layers: int
) -> Trace:
    dtype = expected_dtype(config.model.precision, "cuda" if gpu else "cpu")
    place = simulated_device(gpu) if gpu else nullcontext(torch.device("cpu"))
    shape = Shape(config, layers, dtype, False, gpu)
    with place as device, fake_model(shape, device) as fake, torch.no_grad():
        fake.model.eval()
        mark = partial(fake.tracker.trace.mark, "forward")
        watch_layers(fake.layers, mark, lambda _: False, lambda _: None)
        passes(fake)
        return fake.tracker.trace


def _answer(load: AnswerLoad, rehearsal: Rehearsal, fake: FakeModel) -> None:
    tracker = fake.tracker
    set_memory(fake.model, fake.shape.config.memory, fake.device)
    base: Any = base_model(fake.model)
    with tracker:
        copied = partial(tracker.trace.mark, "cache")
        for tracker.phase, tracker.times in rehearsal(
            base, load.made_up(), load.new_tokens, copied
        ):
            pass


def _read(workload: Workload, fake: FakeModel) -> None:
    tracker = fake.tracker
    step, _ = build_step(fake, trained=False)
    batch = fake_batch(workload, READ, fake.shape.config.loss, fake.device)
    with tracker:
        tracker.phase = "forward"
        step.label_losses = tracker.during("loss")(step.label_losses)
        step.answer_means(batch, READ)
