"""Does work of unknown length in a copy of this process first: it may never end."""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

SECONDS = 10.0
EXTRA_BYTES = 2**30
_OUT_OF_MEMORY = 3


def broken_limit(
    work: Callable[[], object], *, seconds: float = SECONDS, extra_bytes: int = EXTRA_BYTES
) -> str:
    """Runs `work` in a forked copy of this process, under limits.

    Linux alone: elsewhere a fork of a process with threads is not sound, and nothing is tried.

    Args:
        work: What to try; that it raises an exception is no concern here.
        seconds: How long it may take.
        extra_bytes: How much memory it may take beside what this process has.

    Returns:
        The limit that it broke, in words, or nothing.
    """
    if sys.platform != "linux":
        return ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the copy renders text and ends
        copy = os.fork()
    if not copy:
        _try(work, extra_bytes)
    until, pause = time.monotonic() + seconds, 0.001
    while time.monotonic() < until:
        ended, status = os.waitpid(copy, os.WNOHANG)
        if ended:
            return f"more than {extra_bytes // 2**20} MiB" if status else ""
        time.sleep(pause)
        pause = min(0.05, 1.5 * pause)
    os.kill(copy, signal.SIGKILL)
    os.waitpid(copy, 0)
    return f"more than {seconds:g} seconds"


def _try(work: Callable[[], object], extra_bytes: int) -> None:
    import resource

    code = 0
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + extra_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        work()
    except MemoryError:
        code = _OUT_OF_MEMORY
    except BaseException:
        pass
    finally:
        os._exit(code)
