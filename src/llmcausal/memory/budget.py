"""A run's memory limit, and its source."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from typing import Any

from llmcausal.config import MemorySection
from llmcausal.launched import local_index
from llmcausal.memory.prediction import CONTEXT_BYTES, Device

GIB = 2**30
DRIVER_SHARE_BYTES = 804 * 2**20
"""Driver and desktop take this much of a card: 6 GB (6144 MiB) leave about 5340 MiB. A stated
constant; on a real card NVML reports what is free."""
AIM_GB = 6.0
"""The assumed card if there is no GPU and the user names none."""


@dataclass(frozen=True)
class Budget:
    """The most that a run may take of the device, and the figure's source for people."""

    bytes: int
    source: str

    def __str__(self) -> str:
        return f"{self.bytes / GIB:.2f} GiB ({self.source})"


def card_budget(card_gb: float) -> Budget:
    """Returns what the driver leaves of a card sold as `card_gb` GB (GiB on the device)."""
    share = f"{DRIVER_SHARE_BYTES / 2**20:.0f} MiB that driver and desktop take"
    usable = max(0, round(card_gb * GIB) - DRIVER_SHARE_BYTES)
    return Budget(usable, f"a {card_gb:g} GB card, less {share}")


def find_budget(memory: MemorySection, device: Device, card_gb: float | None = None) -> Budget:
    """Finds the budget: the named card, which may be elsewhere, else what is set or free."""
    if card_gb is not None:
        return card_budget(card_gb)
    if memory.budget_gb is not None:
        return Budget(round(memory.budget_gb * GIB), "memory.budget_gb")
    if device == "cpu":
        return Budget(free_host_bytes(), "host memory that is available now")
    if found := free_vram_bytes():
        return Budget(found[0], f"free on the GPU now, by {found[1]}")
    assumed = card_budget(AIM_GB)
    return Budget(assumed.bytes, f"no GPU here, so {assumed.source} (--vram-gb names another)")


def free_vram_bytes() -> tuple[int, str] | None:
    """Returns the free bytes of this process's GPU and their source; None without a GPU.

    What this process already holds is free to it: CUDA's context, which a prediction counts, and
    torch's cache of an earlier model.
    """
    import torch

    found = _free_by_driver()
    if found is None:
        return None
    held = 0
    if torch.cuda.is_initialized() and torch.cuda.max_memory_reserved():  # the GPU was used
        held = torch.cuda.memory_reserved() + CONTEXT_BYTES
    return found[0] + held, found[1]


def _free_by_driver() -> tuple[int, str] | None:
    try:
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
        index = local_index() or 0
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        visible = str(index) if named is None else named.split(",")[index].strip()
        if visible.isdigit():
            handle = nvml.nvmlDeviceGetHandleByIndex(int(visible))
        else:
            handle = nvml.nvmlDeviceGetHandleByUUID(visible)
        return int(nvml.nvmlDeviceGetMemoryInfo(handle).free), "NVML"
    except Exception:  # NVML raises many kinds of errors
        import torch

        if not torch.cuda.is_available():
            return None
        return int(torch.cuda.mem_get_info(local_index())[0]), "CUDA"


def free_host_bytes() -> int:
    import psutil

    return int(psutil.virtual_memory().available)


def within_reach(memory: MemorySection, device: Device) -> Budget:
    """Finds what a loaded run may take: what is free or held, at most `memory.budget_gb`."""
    import psutil

    if device == "cuda":
        free, _ = free_vram_bytes() or (0, "")
        found = Budget(free, "free on the GPU or held by this run")
    else:
        held = psutil.Process().memory_info().rss
        found = Budget(free_host_bytes() + held, "host memory free or held by this run")
    if memory.budget_gb is None:
        return found
    return min(found, find_budget(memory, device), key=lambda budget: budget.bytes)


def enforce(budget: Budget) -> None:
    """Limits torch's allocator to a budget, less CUDA's own context.

    Beyond the limit torch raises, and a run falls back to a leaner strategy. Without a limit the
    driver of Windows and WSL spills to host memory, which slows training down many times.
    """
    import torch

    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    share = (budget.bytes - CONTEXT_BYTES) / total
    torch.cuda.set_per_process_memory_fraction(min(1.0, max(0.0, share)))
