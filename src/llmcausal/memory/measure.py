"""Real steps' memory and time, measured at the allocator, independent of the predictor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from llmcausal.config import RunConfig
from llmcausal.data.tokenization import EncodedTriplet
from llmcausal.errors import ConfigError
from llmcausal.memory.prediction import Workload
from llmcausal.memory.workload import data_workload
from llmcausal.model.factory import load_model
from llmcausal.train.batch import collate, label_totals
from llmcausal.train.build import build_adapters, build_step
from llmcausal.train.callbacks.monitors import HostGauge
from llmcausal.train.optimizer import build_optimizer, optimizer_step
from llmcausal.train.recovery import release
from llmcausal.train.rng import seed_everything

_SNAPSHOT_EVENTS = 1_000_000


@dataclass(frozen=True)
class Measurement:
    """Real steps' memory and time."""

    workload: Workload
    device: str
    allocated_peak_bytes: int  # of tensors, weights included
    reserved_peak_bytes: int | None  # of the caching allocator; None on a CPU
    host_peak_bytes: int | None  # of the process, loading included; None if unknown
    step_seconds: float  # median of the steps after the first
    # File for PyTorch's memory viewer (https://pytorch.org/memory_viz); CUDA only.
    snapshot: Path | None = None


def measure_triplets(
    config: RunConfig,
    rows: Sequence[EncodedTriplet],
    *,
    steps: int = 3,
    snapshot: Path | None = None,
) -> Measurement:
    """Loads the model and runs steps with these triplets as the micro-batch.

    Each optimizer step has two micro-batches if the settings have more than one: the second starts
    with gradients. `model.unpack_on_cpu`, which trades memory for time, does not apply.
    """
    if config.memory.shards > 1:
        raise ConfigError(
            f"memory.shards = {config.memory.shards}: one process cannot measure what several "
            "share; leave out --measure, or give --set memory.shards=1"
        )
    seed_everything(config.train.seed)
    loaded = load_model(config.model, config.memory)
    model = build_adapters(config, loaded)
    step = build_step(config, loaded, model)
    objective = step.objective
    modules = [model, *objective.modules]
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    optimizer = build_optimizer(config.train, {"trained": parameters})
    micro_batches = min(2, config.train.accumulation_steps)

    def train_step() -> None:
        batches = [collate(rows, objective.needs, config.loss.pooling)] * micro_batches
        totals = label_totals(batches)
        optimizer.zero_grad(set_to_none=True)
        for batch in batches:
            step(batch.to(loaded.device), totals, Tensor.backward)
        nn.utils.clip_grad_norm_(parameters, config.train.max_grad_norm)
        optimizer_step(optimizer)

    for module in modules:
        module.train()
    load = data_workload(config, rows)
    return measure(train_step, modules, loaded.device, load, steps=steps, snapshot=snapshot)


def measure(
    step: Callable[[], None],
    modules: Iterable[nn.Module],
    device: torch.device,
    workload: Workload,
    *,
    steps: int,
    snapshot: Path | None = None,
) -> Measurement:
    """Runs steps and reads their peak from the allocator.

    CUDA's caching allocator keeps its own peaks. On a CPU the PyTorch profiler records an event
    for every block that torch allocates or frees; the peak is their largest running sum plus the
    modules' bytes. Other memory (oneDNN's scratch, mapped files) is in neither the measurement nor
    a prediction.

    Args:
        step: One optimizer step; no gradient or optimizer state may exist before the first.
        modules: All that have weights.
        steps: At least 2: the first makes the optimizer's states.
        snapshot: File for PyTorch's memory viewer; CUDA only.
    """
    reserved = None
    if device.type == "cuda":
        allocated, reserved, seconds = _on_cuda(step, device, steps, snapshot)
    else:
        snapshot = None
        held = held_bytes(modules)
        release([device])  # earlier blocks that are freed now would lower the steps' sum
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            seconds = _timed(step, steps, lambda: None)
        allocated = held + _peak_of_events(profiler)
    return Measurement(
        workload=workload,
        device=device.type,
        allocated_peak_bytes=allocated,
        reserved_peak_bytes=reserved,
        host_peak_bytes=HostGauge().read().peak_bytes,
        step_seconds=sorted(seconds[1:])[(steps - 1) // 2],
        snapshot=snapshot,
    )


def held_bytes(modules: Iterable[nn.Module]) -> int:
    """Counts the bytes of parameters, buffers and quantization scales, each storage once."""
    storages: dict[int, int] = {}
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            for each in (tensor, *_scales(getattr(tensor, "quant_state", None))):
                storage = each.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def _scales(state: Any) -> Iterator[Tensor]:
    for value in vars(state).values() if hasattr(state, "__dict__") else ():
        if isinstance(value, Tensor):
            yield value
        else:
            yield from _scales(value)


def _timed(step: Callable[[], None], steps: int, wait: Callable[[], None]) -> list[float]:
    seconds = []
    for _ in range(steps):
        started = time.perf_counter()
        step()
        wait()
        seconds.append(time.perf_counter() - started)
    return seconds


def _peak_of_events(profiler: Any) -> int:
    """Returns the largest running sum of the profiler's memory events."""
    events = [
        (event.start_ns(), event.nbytes())
        for event in profiler.profiler.kineto_results.events()
        if event.name() == "[memory]" and event.device_type() == torch.profiler.DeviceType.CPU
    ]
    changes = (count for _, count in sorted(events, key=lambda event: event[0]))
    peak: int = max(accumulate(changes, initial=0))
    return peak


def _on_cuda(
    step: Callable[[], None], device: torch.device, steps: int, snapshot: Path | None
) -> tuple[int, int, list[float]]:
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    if snapshot is not None:
        torch.cuda.memory._record_memory_history(max_entries=_SNAPSHOT_EVENTS)
    try:
        seconds = _timed(step, steps, lambda: torch.cuda.synchronize(device))
        if snapshot is not None:
            torch.cuda.memory._dump_snapshot(str(snapshot))
    finally:
        if snapshot is not None:
            torch.cuda.memory._record_memory_history(enabled=None)
    allocated = int(torch.cuda.max_memory_allocated(device))
    return allocated, int(torch.cuda.max_memory_reserved(device)), seconds
