"""Crash-safe writing, and reading with a size limit."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

_PART_BYTES = 2**20


class TooLargeError(ValueError):
    """A file is larger than its kind allows."""


def write_flushed(path: Path, chunks: Iterable[bytes]) -> None:
    with path.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def read_at_most(source: Path | BinaryIO, limit_bytes: int) -> bytes:
    """Reads a file, or an open stream to its end.

    Raises:
        TooLargeError: If it is larger; memory never holds much more than the limit.
    """
    content = bytearray()
    size = source.stat().st_size if isinstance(source, Path) else 0
    with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file:
        # A pipe or device reports no size and may never end.
        while size <= limit_bytes and (part := file.read(_PART_BYTES)):
            content += part
            size = max(size, len(content))
    if size > limit_bytes:
        raise TooLargeError(f"larger than {limit_bytes // 2**10:,} KiB")
    return bytes(content)


def replace_file(path: Path, chunks: Iterable[bytes]) -> None:
    """Writes next to `path`, then renames: after a crash, the file is either new or unchanged."""
    work = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write_flushed(work, chunks)
        work.replace(path)
    finally:
        work.unlink(missing_ok=True)
    flush_directory(path.parent)


def forget_partial_files(folder: Path) -> None:
    """Deletes the partial files of killed processes; those of running ones stay."""
    import psutil

    for partial in folder.glob(".*.partial"):
        process = partial.name.split(".")[-2]
        if process.isdigit() and not psutil.pid_exists(int(process)):
            partial.unlink(missing_ok=True)


def flush_directory(folder: Path) -> None:
    """Flushes a folder's entries, so that a rename in it is on disk."""
    if os.name != "posix":  # Windows cannot open a directory; its renames are journaled
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
