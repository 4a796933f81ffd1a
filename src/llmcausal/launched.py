"""How this process was started: alone or as one of several, on Linux, Windows or WSL.

`llmcausal --num-processes`, `accelerate launch` and `torchrun` set the same variables.
"""

from __future__ import annotations

import os
import platform

LIBRARIES = {
    # Number of spins before a waiting thread sleeps. By default it spins for milliseconds: if
    # another program runs on the other thread's core, that is a whole time slice.
    "GOMP_SPINCOUNT": "10000",
    # Number of kernels that oneDNN and torch keep for known shapes, about 0.8 MiB each. With the
    # default of 1024 each, training on texts of many lengths looks like a memory leak.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256",
    "LRU_CACHE_CAPACITY": "256",
}
"""Environment variables of torch's libraries; `settle_libraries` sets them."""
MEMORY_OF_PROCESS = "memory_bytes_process_"
"""Prefix of the figures of the processes with index 1 and up; the first's is `memory_bytes`."""


def process_count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_index() -> int:
    return int(os.environ.get("RANK", "0")) if process_count() > 1 else 0


def local_index() -> int | None:
    """Returns this process's rank on this machine, or None for a single process."""
    return int(os.environ.get("LOCAL_RANK", "0")) if process_count() > 1 else None


def settle_libraries() -> None:
    """Sets the variables that the user has not set; torch reads them when it loads."""
    for name, value in LIBRARIES.items():
        os.environ.setdefault(name, value)


def in_windows() -> bool:
    return platform.system() == "Windows"


def in_wsl() -> bool:
    return platform.system() == "Linux" and "microsoft" in platform.uname().release.lower()


def windows_driver() -> bool:
    """Returns whether the Windows driver runs the GPU: in Windows and in WSL."""
    return in_windows() or in_wsl()


def more_wsl_memory() -> str:
    """Returns advice on giving WSL more memory; by default it has half of the host's."""
    return (
        "give WSL more memory: under [wsl2] in %UserProfile%\\.wslconfig, `memory=` and the "
        "size; then `wsl --shutdown`"
    )
