"""Files that survive a crash: flushed to disk, and replaced whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def write_flushed(path: Path, chunks: Iterable[bytes]) -> None:
    """Writes a file and flushes it to disk."""
    with path.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, chunks: Iterable[bytes]) -> None:
    """Writes beside `path`, then renames over it: the file is whole, or as it was before."""
    work = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write_flushed(work, chunks)
        work.replace(path)
    finally:
        work.unlink(missing_ok=True)
    flush_directory(path.parent)


def forget_partial_files(folder: Path) -> None:
    """Deletes what a kill left of `replace_file`; files of processes that still run stay."""
    import psutil

    for partial in folder.glob(".*.partial"):
        process = partial.name.split(".")[-2]
        if process.isdigit() and not psutil.pid_exists(int(process)):
            partial.unlink(missing_ok=True)


def flush_directory(folder: Path) -> None:
    """Flushes the names in a folder, so that a rename in it is on disk."""
    if os.name != "posix":  # Windows cannot open a directory; its renames are journaled
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
