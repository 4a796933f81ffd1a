"""How this process was started: alone, or as one of several that train or evaluate together.

`llmcausal --num-processes`, `accelerate launch` and `torchrun` tell it by the same variables.
"""

from __future__ import annotations

import os

LIBRARIES = {
    # A thread that waits for another spins this often before it sleeps. By default it spins for
    # milliseconds: where another program has the other thread's core, that is its whole turn.
    "GOMP_SPINCOUNT": "10000",
    # Kernels that oneDNN and torch keep for shapes seen before, about 0.8 MiB each: 1024 of each
    # by default, so that training on texts of many lengths seems to leak memory.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256",
    "LRU_CACHE_CAPACITY": "256",
}
"""What torch's libraries are told by environment variables; `settle_libraries` sets them."""
MEMORY_OF_PROCESS = "memory_bytes_process_"
"""With its index: the figure of a process beside the first, whose is `memory_bytes`."""


def process_count() -> int:
    """Returns the number of processes, on all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_index() -> int:
    """Returns which of them this one is, from 0."""
    return int(os.environ.get("RANK", "0")) if process_count() > 1 else 0


def local_index() -> int | None:
    """Returns which of those on this machine this one is, or None where it is alone."""
    return int(os.environ.get("LOCAL_RANK", "0")) if process_count() > 1 else None


def settle_libraries() -> None:
    """Sets how torch's libraries wait and what they keep; before torch loads, or it has no effect.

    What the environment says already stays.
    """
    for name, value in LIBRARIES.items():
        os.environ.setdefault(name, value)
