"""Ends processes at chosen moments: after so many file operations, or after so much time."""

from __future__ import annotations

import os
import random
import signal
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FILE_EVENTS = frozenset({
    "open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate",
    "tempfile.mkdtemp", "tempfile.mkstemp", "shutil.rmtree",
})  # fmt: skip


def at_file_event(run_dir: Path, number: int, act: Callable[[], None]) -> Callable[[], None]:
    """Returns what makes a process `act` ahead of its so-many-th operation on files of the run.

    Python tells an audit hook before each, so that the moments include those between the writes,
    renames and deletions of one checkpoint.
    """

    def install() -> None:
        inside = str(run_dir)
        seen = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal seen
            if event in FILE_EVENTS and _touches(arguments, inside):
                seen += 1
                if seen == number:
                    act()

        sys.addaudithook(hook)

    return install


def counting_file_events(run_dir: Path, into: Path) -> Callable[[], None]:
    """Returns what makes a process count its operations on files of the run, into a file."""

    def install() -> None:
        inside = str(run_dir)
        counter = os.open(into, os.O_RDWR | os.O_CREAT)
        seen = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal seen
            if event in FILE_EVENTS and _touches(arguments, inside):
                seen += 1
                os.pwrite(counter, struct.pack("q", seen), 0)

        sys.addaudithook(hook)

    return install


def read_count(file: Path) -> int:
    """Returns what `counting_file_events` counted."""
    return int(struct.unpack("q", file.read_bytes())[0])


def kill_self() -> None:
    """Ends this process as a power cut would: nothing is flushed, no handler runs."""
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for(path: Path, limit_seconds: float = 60) -> bool:
    """Waits until a file is there."""
    until = time.monotonic() + limit_seconds
    while time.monotonic() < until:
        if path.exists():
            return True
        time.sleep(0.002)
    return False


def pause(rng: random.Random, longest_seconds: float) -> None:
    """Waits a random part of a run."""
    time.sleep(rng.uniform(0, longest_seconds))


def _touches(arguments: tuple[Any, ...], inside: str) -> bool:
    for argument in arguments[:2]:
        if isinstance(argument, (str, bytes, os.PathLike)):
            path = os.fsdecode(argument)
            if path.startswith(inside):
                return True
    return False
