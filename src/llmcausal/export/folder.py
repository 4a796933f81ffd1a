"""An output folder that appears whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from llmcausal.errors import StorageError, UsageError

_DISK_ERRORS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
}


def refuse_existing(out: Path) -> None:
    """Checks, before anything slow, that `out` may be written.

    Raises:
        UsageError: If it is a file, or a folder with something in it.
    """
    if out.is_dir():
        if any(out.iterdir()):
            raise UsageError(f"{out}: is not empty; give --out a new folder, or empty this one")
    elif out.exists() or out.is_symlink():
        raise UsageError(f"{out}: exists and is not a folder; give --out a new folder")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yields a temporary sibling; flushes it and renames it to `out` if the block succeeds.

    Raises:
        UsageError: If `out` exists and is not an empty folder.
        StorageError: If the disk refuses; nothing is left behind.
    """
    refuse_existing(out)
    work = out.parent / f".{out.name}.{os.getpid()}.partial"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        yield work
        for file in work.rglob("*"):
            if file.is_file():
                # safetensors writes files that only their owner may read.
                file.chmod(work.stat().st_mode & 0o666)
                with file.open("rb+") as stream:
                    os.fsync(stream.fileno())
        refuse_existing(out)
        if out.exists():
            out.rmdir()
        work.rename(out)
    except OSError as error:
        # Libraries raise OSError for a missing model too: only the disk's own errors are ours.
        if error.errno in _DISK_ERRORS:
            raise StorageError(f"{out}: cannot be written: {error.strerror}") from error
        raise
    except SafetensorError as error:
        raise StorageError(f"{out}: weights cannot be written: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
