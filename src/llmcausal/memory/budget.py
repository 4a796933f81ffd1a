"""How much memory a run may take, and who says so."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from llmcausal.config import MemorySection
from llmcausal.memory.prediction import Prediction

GIB = 2**30
DRIVER_SHARE_BYTES = 804 * 2**20
"""What driver and desktop take of a card before any program runs: a 6 GB card (6144 MiB) leaves
about 5340 MiB. A stated constant; `free by NVML` is what a real card has."""
CONTEXT_BYTES = 450 * 2**20
"""A CUDA context with the libraries' handles and kernels: 300 to 450 MiB, by card and driver."""
AIM_GB = 6.0
"""Card that is assumed where there is no GPU and none was named."""

Device = Literal["cuda", "cpu"]


@dataclass(frozen=True)
class Budget:
    """Memory to stay within.

    Attributes:
        bytes: Most that the run may take of the device.
        source: Where the figure comes from, for people.
    """

    bytes: int
    source: str


def card_budget(card_gb: float) -> Budget:
    """Returns what the driver leaves of a card sold as `card_gb` GB (GiB on the device)."""
    usable = max(0, round(card_gb * GIB) - DRIVER_SHARE_BYTES)
    return Budget(
        usable,
        f"a {card_gb:g} GB card, less {DRIVER_SHARE_BYTES / 2**20:.0f} MiB that driver and "
        "desktop take",
    )


def find_budget(
    memory: MemorySection,
    device: Device,
    *,
    card_gb: float | None = None,
    free_vram: Callable[[], tuple[int, str] | None] | None = None,
) -> Budget:
    """Finds the budget: a named card, else `memory.budget_gb`, else what is free.

    Args:
        memory: Settings.
        device: What is trained on.
        card_gb: Size of a card that need not be here.
        free_vram: Returns free bytes of the GPU and who told, or None without one.
    """
    if card_gb is not None:
        return card_budget(card_gb)
    if memory.budget_gb is not None:
        return Budget(round(memory.budget_gb * GIB), "memory.budget_gb")
    if device == "cpu":
        return Budget(free_host_bytes(), "host memory that is available now")
    if found := (free_vram or free_vram_bytes)():
        return Budget(found[0], f"free on the GPU now, by {found[1]}")
    assumed = card_budget(AIM_GB)
    return Budget(assumed.bytes, f"no GPU here, so {assumed.source} (--vram-gb names another)")


def free_vram_bytes() -> tuple[int, str] | None:
    """Returns the free bytes of the first visible GPU and who told, or None if there is none."""
    try:
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
        if visible.isdigit():
            handle = nvml.nvmlDeviceGetHandleByIndex(int(visible))
        else:
            handle = nvml.nvmlDeviceGetHandleByUUID(visible)
        return int(nvml.nvmlDeviceGetMemoryInfo(handle).free), "NVML"
    except Exception:  # NVML's errors are of many kinds; torch is asked instead
        import torch

        if not torch.cuda.is_available():
            return None
        return int(torch.cuda.mem_get_info()[0]), "CUDA"


def free_host_bytes() -> int:
    """Returns the host memory that is available now."""
    import psutil

    return int(psutil.virtual_memory().available)


def within_reach(memory: MemorySection, device: Device) -> Budget:
    """Finds what a run that has loaded its model may take: what is free, and what it holds.

    `memory.budget_gb` limits it.
    """
    import psutil
    import torch

    if device == "cuda":
        held = torch.cuda.memory_reserved() + CONTEXT_BYTES
        found = Budget(torch.cuda.mem_get_info()[0] + held, "free on the GPU or held by this run")
    else:
        held = psutil.Process().memory_info().rss
        found = Budget(free_host_bytes() + held, "host memory free or held by this run")
    limit = memory.budget_gb
    if limit is None or round(limit * GIB) >= found.bytes:
        return found
    return Budget(round(limit * GIB), "memory.budget_gb")


def enforce(budget: Budget) -> None:
    """Lets torch's allocator take no more of the GPU than a budget, less CUDA's own context.

    Beyond it torch raises, and a run falls back to a leaner strategy. Without this the driver of
    Windows and WSL spills to host memory instead, and training crawls.
    """
    import torch

    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    share = (budget.bytes - CONTEXT_BYTES) / total
    torch.cuda.set_per_process_memory_fraction(min(1.0, max(0.0, share)))


def uses_expandable_segments() -> bool:
    """Tells whether the environment asks CUDA's allocator for expandable segments."""
    asked = (os.environ.get(name, "") for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"))
    return any("expandable_segments:true" in text.lower().replace(" ", "") for text in asked)


def needed_bytes(prediction: Prediction) -> int:
    """Returns what a prediction takes of the budget: with the allocator's own share on CUDA."""
    if prediction.device == "cpu":
        return prediction.allocated_bytes
    return prediction.total_bytes(expandable=uses_expandable_segments())
