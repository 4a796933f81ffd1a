"""How this process was started: alone, or as one of several that train or evaluate together.

`llmcausal --num-processes`, `accelerate launch` and `torchrun` tell it by the same variables.
"""

from __future__ import annotations

import os

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
