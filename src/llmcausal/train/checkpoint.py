"""The checkpoint folder: written whole or not at all, hashed, verified before use."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmcausal.errors import CheckpointError, StorageError
from llmcausal.storage import (
    flush_directory,
    forget_partial_files,
    read_at_most,
    write_flushed,
)

MANIFEST = "manifest.json"
BEST = "best"
_NAME = re.compile(r"checkpoint-(\d+)")
_MAX_MANIFEST_BYTES = 2**20


def write_checkpoint(folder: Path, files: Mapping[str, bytes], facts: Mapping[str, Any]) -> None:
    """Writes a checkpoint beside its place, flushes it to disk, then renames it into place.

    Args:
        folder: Where it shall be; an older folder of that name is replaced.
        files: Contents by file name.
        facts: Goes into the manifest beside the files' hashes.

    Raises:
        StorageError: If the disk refuses; what was at `folder` before is intact.
    """
    manifest = {**facts, "files": {name: _sha256(content) for name, content in files.items()}}
    manifest["sha256"] = _own_hash(manifest)
    encoded = json.dumps(manifest, indent=2, ensure_ascii=False).encode()
    work: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.tmp-"))
        work.chmod(0o755)
        for name, content in [*files.items(), (MANIFEST, encoded)]:
            write_flushed(work / name, [content])
        flush_directory(work)
        _swap_in(work, folder)
    except OSError as error:
        raise StorageError(
            f"{folder}: the checkpoint could not be written: {error.strerror or error}. "
            f"Free some space, then continue with: llmcausal resume {folder.parent} "
            "(earlier checkpoints are intact)"
        ) from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)


def add_file(folder: Path, name: str, content: bytes) -> None:
    """Writes a checkpoint again with one more file.

    Raises:
        CheckpointError: If it is damaged.
        StorageError: If the disk refuses; the checkpoint is as it was.
    """
    facts = verify(folder)
    files = {each: (folder / each).read_bytes() for each in facts.pop("files")}
    write_checkpoint(folder, {**files, name: content}, facts)


def verify(folder: Path) -> dict[str, Any]:
    """Checks every file of a checkpoint against its hash and returns the manifest.

    Raises:
        CheckpointError: Naming the folder, the file and what is wrong.
    """
    manifest = read_manifest(folder)
    for name, expected in manifest["files"].items():
        if Path(name).name != name:
            raise CheckpointError(f"{folder / MANIFEST}: {name!r} is not a plain file name")
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"{file}: missing; the checkpoint is damaged")
        if _sha256(file.read_bytes()) != expected:
            raise CheckpointError(f"{file}: does not match its hash; the checkpoint is damaged")
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads a checkpoint's manifest without reading the files that it names.

    Raises:
        CheckpointError: If there is none, or it is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise CheckpointError(f"{folder}: not a checkpoint (it has no {MANIFEST})")
    try:
        manifest = json.loads(read_at_most(path, _MAX_MANIFEST_BYTES))
        own = manifest.pop("sha256")
        sound = {**manifest, "files": dict(manifest["files"])}
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged: {error}") from error
    if own != _own_hash(manifest):
        raise CheckpointError(f"{path}: does not match its own hash; the checkpoint is damaged")
    return sound


def _own_hash(manifest: Mapping[str, Any]) -> str:
    """Hashes what a manifest says beside its own hash: a wrong fact would refuse a good run."""
    return _sha256(json.dumps(manifest, sort_keys=True).encode())


def checkpoints(run_dir: Path) -> list[tuple[int, Path]]:
    """Lists the checkpoints of a run, newest first."""
    found = [
        (int(match[1]), path)
        for path in run_dir.glob("checkpoint-*")
        if path.is_dir() and not path.is_symlink() and (match := _NAME.fullmatch(path.name))
    ]
    return sorted(found, reverse=True)


def newest_good(run_dir: Path) -> tuple[Path | None, list[str]]:
    """Finds the newest checkpoint whose hashes hold.

    Returns:
        The checkpoint (None if there is none yet), and what is wrong with newer ones.

    Raises:
        CheckpointError: If there are checkpoints but none is good.
    """
    recover(run_dir)
    damaged = []
    for _, folder in checkpoints(run_dir):
        try:
            verify(folder)
        except CheckpointError as error:
            damaged.append(str(error))
        else:
            return folder, damaged
    if damaged:
        raise CheckpointError(
            "\n".join(
                [
                    f"{run_dir}: no checkpoint is intact; start again, or resume {run_dir / BEST}",
                    *damaged,
                ]
            )
        )
    return None, []


def recover(run_dir: Path) -> None:
    """Finishes or undoes what a kill interrupted: half-written files and folders, swaps."""
    for old in run_dir.glob(".*.old"):
        target = run_dir / old.name[1 : -len(".old")]
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(target)
    for stale in run_dir.glob(".*.tmp-*"):
        shutil.rmtree(stale, ignore_errors=True)
    forget_partial_files(run_dir)


def prune(run_dir: Path, keep: int) -> None:
    """Deletes all but the newest `keep` checkpoints."""
    for _, folder in checkpoints(run_dir)[keep:]:
        shutil.rmtree(folder, ignore_errors=True)


def discard_after(run_dir: Path, step: int) -> list[Path]:
    """Deletes the checkpoints of later steps, so that a run's newest is always its own past."""
    later = [folder for number, folder in checkpoints(run_dir) if number > step]
    for folder in later:
        shutil.rmtree(folder, ignore_errors=True)
    return later


def _swap_in(work: Path, folder: Path) -> None:
    old = folder.with_name(f".{folder.name}.old")
    if old.is_symlink():  # planted, or made by hand: what it points to is not ours
        old.unlink()
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    work.rename(folder)
    flush_directory(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
