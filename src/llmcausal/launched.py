"""How this process was started: alone or as one of several, on Linux, Windows or Linux inside it.

`llmcausal --num-processes`, `accelerate launch` and `torchrun` set the same variables.
"""

from __future__ import annotations

import os
import platform

LIBRARIES = {
    # A waiting thread spins this often before it sleeps. By default it spins for milliseconds:
    # if another program has the other thread's core, these are its whole turn.
    "GOMP_SPINCOUNT": "10000",
    # Kernels that oneDNN and torch keep for shapes seen before, about 0.8 MiB each: 1024 of each
    # by default, so that training on texts of many lengths seems to leak memory.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256",
    "LRU_CACHE_CAPACITY": "256",
}
"""Environment variables of torch's libraries; `settle_libraries` sets them."""
MEMORY_OF_PROCESS = "memory_bytes_process_"
"""With an index: the figure of a further process; the first's is `memory_bytes`."""


def process_count() -> int:
    """Returns the number of processes, on all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_index() -> int:
    """Returns this process's rank."""
    return int(os.environ.get("RANK", "0")) if process_count() > 1 else 0


def local_index() -> int | None:
    """Returns this process's rank on this machine, or None if it is alone."""
    return int(os.environ.get("LOCAL_RANK", "0")) if process_count() > 1 else None


def settle_libraries() -> None:
    """Sets variables that are not set yet; this has an effect only before torch loads."""
    for name, value in LIBRARIES.items():
        os.environ.setdefault(name, value)


def in_windows() -> bool:
    """Tells whether this is Windows itself."""
    return platform.system() == "Windows"


def in_wsl() -> bool:
    """Tells whether this is Linux inside Windows."""
    return platform.system() == "Linux" and "microsoft" in platform.uname().release.lower()


def windows_driver() -> bool:
    """Tells whether Windows' driver runs the GPU: in Windows, and in WSL."""
    return in_windows() or in_wsl()


def more_wsl_memory() -> str:
    """Returns how to give WSL more of the host's memory; it has half by default."""
    return (
        "give WSL more memory: under [wsl2] in %UserProfile%\\.wslconfig, `memory=` and the "
        "size; then `wsl --shutdown`"
    )
