"""What real steps take of memory and time: measured at the allocator, not by the predictor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from llmcausal.memory.prediction import Workload
from llmcausal.train.callbacks.monitors import HostGauge
from llmcausal.train.recovery import release

_SNAPSHOT_EVENTS = 1_000_000


@dataclass(frozen=True)
class Measurement:
    """What real steps took.

    Attributes:
        workload: The micro-batch that was run.
        device: `cuda` or `cpu`.
        allocated_peak_bytes: Peak of what tensors hold, weights included.
        reserved_peak_bytes: Peak that the caching allocator took; None on a CPU, which has none.
        host_peak_bytes: Peak resident memory of the process so far, loading included; None where
            the system does not tell.
        step_seconds: Median of the steps after the first.
        snapshot: File for PyTorch's memory viewer (https://pytorch.org/memory_viz); CUDA only.
    """

    workload: Workload
    device: str
    allocated_peak_bytes: int
    reserved_peak_bytes: int | None
    host_peak_bytes: int | None
    step_seconds: float
    snapshot: Path | None = None


@dataclass(frozen=True)
class StepPeaks:
    """What `measure` saw: peaks in bytes and the median time of the steps after the first."""

    allocated_bytes: int
    reserved_bytes: int | None
    host_bytes: int | None
    seconds: float


def measure(
    step: Callable[[], None],
    modules: Iterable[nn.Module],
    device: torch.device,
    *,
    steps: int,
    snapshot: Path | None = None,
) -> StepPeaks:
    """Runs steps and reads their peak off the allocator.

    On CUDA the caching allocator keeps the peaks itself. On a CPU the PyTorch profiler records
    an event for every block that torch's allocator gives or takes back; the peak is the largest
    running sum of these, on top of what the modules held before. Blocks that are not torch's
    (oneDNN's scratch, files mapped and not yet read) are in neither this nor a prediction.

    Args:
        step: One optimizer step; no gradient or optimizer state may exist before the first.
        modules: Whatever holds weights.
        device: Where they are.
        steps: How many, at least 2: the first makes the optimizer's states.
        snapshot: Where to write what PyTorch's memory viewer shows; CUDA only.
    """
    if device.type == "cuda":
        allocated, reserved, seconds = _on_cuda(step, device, steps, snapshot)
    else:
        held = held_bytes(modules)
        release([device])  # what is given back from before would count against the steps
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            seconds = _timed(step, steps, lambda: None)
        allocated, reserved = held + _peak_of_events(profiler), None
    ordered = sorted(seconds[1:])
    return StepPeaks(allocated, reserved, HostGauge().read().peak_bytes, ordered[len(ordered) // 2])


def held_bytes(modules: Iterable[nn.Module]) -> int:
    """Counts the bytes of all parameters and buffers, scales of quantized ones included, once."""
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
    total = peak = 0
    for _, count in sorted(events, key=lambda event: event[0]):
        total += count
        peak = max(peak, total)
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
