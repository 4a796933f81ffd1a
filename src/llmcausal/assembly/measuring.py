"""Real steps on the longest rows of a run's data, measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from llmcausal.assembly.prepare import prepare_data
from llmcausal.assembly.strategy_choice import data_workload, largest_rows
from llmcausal.config import RunConfig
from llmcausal.data.tokenization import EncodedTriplet
from llmcausal.errors import ConfigError
from llmcausal.memory.measure import Measurement, measure
from llmcausal.model.factory import load_model
from llmcausal.train.batch import collate, label_totals
from llmcausal.train.build import build_adapters, build_step
from llmcausal.train.optimizer import build_optimizer, optimizer_step
from llmcausal.train.rng import seed_everything


def measure_steps(
    config: RunConfig,
    *,
    steps: int = 3,
    progress: Callable[[str], None] | None = None,
    snapshot: Path | None = None,
) -> Measurement:
    """Loads the model and runs steps on the triplets with the largest trees.

    On a CPU the frozen weights are used as they are loaded: `model.unpack_on_cpu`, which trades
    memory for time, is left out.

    Args:
        config: Settings; the `[memory]` switches as they stand.
        steps: How many, at least 2.
        progress: Told what is being done.
        snapshot: Where to write the file for PyTorch's memory viewer; CUDA only.

    Raises:
        LlmcausalError: If data or model cannot be used.
    """
    tell = progress or _untold
    tell("reading the data")
    data = prepare_data(config)
    rows = largest_rows(config, data.train)
    return measure_triplets(config, rows, steps=steps, progress=progress, snapshot=snapshot)


def measure_triplets(
    config: RunConfig,
    rows: Sequence[EncodedTriplet],
    *,
    steps: int = 3,
    progress: Callable[[str], None] | None = None,
    snapshot: Path | None = None,
) -> Measurement:
    """Measures as `measure_steps` does, on these triplets as the micro-batch.

    Each optimizer step has two micro-batches if the settings have more than one: in the second,
    gradients are there from the start.
    """
    if config.memory.shards > 1:
        raise ConfigError(
            f"memory.shards = {config.memory.shards}: one process cannot measure what several "
            "share; leave out --measure, or give --set memory.shards=1"
        )
    tell = progress or _untold
    tell("loading the model")
    seed_everything(config.train.seed)
    loaded = load_model(config.model, config.memory)
    model = build_adapters(config, loaded)
    step = build_step(config, loaded, model)
    objective = step.objective
    modules = [model, *objective.modules]
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    optimizer = build_optimizer(config.train, {"trained": parameters})
    micro_batches = min(2, config.train.accumulation_steps)

    def backward(loss: torch.Tensor) -> None:
        loss.backward()

    def train_step() -> None:
        batches = [collate(rows, objective.needs, config.loss.pooling)] * micro_batches
        totals = label_totals(batches)
        optimizer.zero_grad(set_to_none=True)
        for batch in batches:
            step(batch.to(loaded.device), totals, backward)
        torch.nn.utils.clip_grad_norm_(parameters, config.train.max_grad_norm)
        optimizer_step(optimizer)

    for module in modules:
        module.train()
    tell(f"running {steps} steps")
    seen = measure(train_step, modules, loaded.device, steps=steps, snapshot=snapshot)
    on_cuda = loaded.device.type == "cuda"
    return Measurement(
        workload=data_workload(config, rows),
        device=loaded.device.type,
        allocated_peak_bytes=seen.allocated_bytes,
        reserved_peak_bytes=seen.reserved_bytes,
        host_peak_bytes=seen.host_bytes,
        step_seconds=seen.seconds,
        snapshot=snapshot if on_cuda else None,
    )


def _untold(text: str) -> None:
    pass
