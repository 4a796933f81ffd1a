"""Callbacks that measure: memory, causal metrics and the learning rate."""

from __future__ import annotations

import importlib
import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcausal.metrics import COSINES
from llmcausal.train.callback import Callback, FitContext, Record

if TYPE_CHECKING:
    import torch

CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@dataclass(frozen=True)
class MemoryUsage:
    used_bytes: int
    peak_bytes: int | None


class HostGauge:
    """This process's resident memory; the limit is the machine's or the container's."""

    def __init__(self) -> None:
        import psutil

        self._process = psutil.Process()
        self.limit_bytes = min([psutil.virtual_memory().total, *_cgroup_limits()])

    def read(self) -> MemoryUsage:
        return MemoryUsage(self._process.memory_info().rss, _peak_resident_bytes())


class CudaGauge:
    """This process's GPU memory by NVML, which includes the CUDA context and other libraries.

    Without NVML it is the memory that torch's allocator reserves. The peak is the allocator's,
    plus the memory that the process now holds outside it.

    Args:
        notes: Gets one note if NVML cannot be used.
    """

    def __init__(self, device: torch.device, notes: list[str]) -> None:
        import torch

        self._cuda = torch.cuda
        self._device = device
        self._notes = notes
        properties = torch.cuda.get_device_properties(device)
        self.limit_bytes = int(properties.total_memory)
        self._nvml: Any = None
        try:
            self._nvml = importlib.import_module("pynvml")
            self._nvml.nvmlInit()
            self._handle = self._nvml.nvmlDeviceGetHandleByUUID(f"GPU-{properties.uuid}")
        except Exception as error:  # NVML raises many types; none may stop a run
            self._give_up(str(error))

    def read(self) -> MemoryUsage:
        reserved = int(self._cuda.memory_reserved(self._device))
        used = max(reserved, self._process_bytes())
        peak = int(self._cuda.max_memory_reserved(self._device)) + used - reserved
        return MemoryUsage(used, peak)

    def _process_bytes(self) -> int:
        if self._nvml is None:
            return 0
        try:
            processes = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        except Exception as error:
            self._give_up(str(error))
            return 0
        for process in processes:
            if process.pid == os.getpid() and process.usedGpuMemory is not None:
                return int(process.usedGpuMemory)
        self._give_up("it does not report this process's share here (a container, Windows or WSL)")
        return 0

    def _give_up(self, reason: str) -> None:
        self._nvml = None
        self._notes.append(
            f"memory: NVML cannot be used ({reason}); the figure is torch's reserved memory, "
            "without the CUDA context (300-450 MiB)"
        )


class MemoryMonitor(Callback):
    """Adds `memory_bytes` and, where known, `memory_peak_bytes` to the record."""

    def __init__(self) -> None:
        # All memory of the GPU, the host or its container; None before the run.
        self.limit_bytes: int | None = None
        # The newest reading, taken after every micro-batch; None before the run.
        self.usage: MemoryUsage | None = None
        self._gauge: CudaGauge | HostGauge | None = None

    def on_fit_start(self, context: FitContext) -> None:
        on_gpu = str(context.device).startswith("cuda")
        self._gauge = CudaGauge(context.device, context.notes) if on_gpu else HostGauge()
        self.limit_bytes = self._gauge.limit_bytes
        self.usage = self._gauge.read()

    def on_micro_batch(self, context: FitContext, done: int, of: int) -> None:
        if self._gauge is not None:
            self.usage = self._gauge.read()

    def on_step_end(self, context: FitContext, record: Record) -> None:
        if self._gauge is None:
            return
        self.usage = self._gauge.read()
        record["memory_bytes"] = self.usage.used_bytes
        if self.usage.peak_bytes is not None:
            record["memory_peak_bytes"] = self.usage.peak_bytes


def _cgroup_limits() -> list[int]:
    limits = []
    for path in CGROUP_LIMITS:
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        if text.isdigit():  # "max" means no limit
            limits.append(int(text))
    return limits


def _peak_resident_bytes() -> int | None:
    """Returns VmHWM; getrusage's ru_maxrss includes the parent process before exec."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


class CausalMetrics(Callback):
    """Adds `<metric>_mean`: the mean over the last `window` steps that have the metric."""

    def __init__(self, window: int = 20) -> None:
        names = [metric.name for metric in COSINES]
        self._recent: dict[str, deque[float]] = {name: deque(maxlen=window) for name in names}

    def state_dict(self) -> dict[str, Any]:
        return {name: list(values) for name, values in self._recent.items()}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        for name, recent in self._recent.items():
            recent.clear()
            recent.extend(values[name])

    def on_step_end(self, context: FitContext, record: Record) -> None:
        for name, recent in self._recent.items():
            if name in record:
                recent.append(float(record[name]))
                record[f"{name}_mean"] = sum(recent) / len(recent)


class LearningRateMonitor(Callback):
    """Adds `learning_rate`, and `learning_rate_<group>` where parameter groups differ.

    A group without a `name` goes by its number.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._rates: dict[str, float] = {}

    def on_micro_batch(self, context: FitContext, done: int, of: int) -> None:
        # After the step it is too late: the scheduler has already set the next step's rate.
        self._rates = {
            str(group.get("name", index)): float(group["lr"])
            for index, group in enumerate(self._optimizer.param_groups)
        }

    def on_step_end(self, context: FitContext, record: Record) -> None:
        rates, self._rates = self._rates, {}
        if not rates:  # the validation before the first step
            return
        record["learning_rate"] = next(iter(rates.values()))
        if len(set(rates.values())) > 1:
            record.update({f"learning_rate_{name}": rate for name, rate in rates.items()})
