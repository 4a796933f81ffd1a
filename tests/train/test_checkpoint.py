"""A checkpoint is complete or absent; a damaged one is named and skipped."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from llmcausal.errors import CheckpointError, StorageError
from llmcausal.train import checkpoint
from llmcausal.train.checkpoint import (
    newest_good,
    prune,
    read_manifest,
    recover,
    verify,
    write_checkpoint,
)

FILES = {"a.bin": b"alpha", "b.bin": b"beta" * 1000}


def write(run_dir: Path, step: int) -> Path:
    folder = run_dir / f"checkpoint-{step}"
    write_checkpoint(folder, FILES, {"step": step})
    return folder


def test_what_is_written_verifies(tmp_path: Path) -> None:
    folder = write(tmp_path, 3)
    manifest = verify(folder)
    assert manifest["step"] == 3
    assert set(manifest["files"]) == set(FILES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-3"]


def test_a_checkpoint_is_replaced_whole(tmp_path: Path) -> None:
    folder = write(tmp_path, 3)
    write_checkpoint(folder, {"c.bin": b"new"}, {"step": 3})
    assert sorted(path.name for path in folder.iterdir()) == ["c.bin", "manifest.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "manifest", "traversal"])
def test_damage_is_named_and_passed_over(tmp_path: Path, damage: str) -> None:
    write(tmp_path, 1)
    folder = write(tmp_path, 2)
    victim = folder / "b.bin"
    if damage == "flip":
        victim.write_bytes(b"Beta" + victim.read_bytes()[4:])
    elif damage == "truncate":
        victim.write_bytes(victim.read_bytes()[:-1])
    elif damage == "delete":
        victim.unlink()
    elif damage == "manifest":
        victim = folder / "manifest.json"
        victim.write_text("{")
    else:
        victim = folder / "manifest.json"
        manifest = json.loads(victim.read_text())
        manifest["files"]["../checkpoint-1/a.bin"] = "0"
        del manifest["sha256"]
        manifest["sha256"] = checkpoint._own_hash(manifest)
        victim.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=victim.name):
        verify(folder)
    good, damaged = newest_good(tmp_path)
    assert good == tmp_path / "checkpoint-1"
    assert len(damaged) == 1
    assert str(victim) in damaged[0]


def test_no_byte_of_a_checkpoint_may_change(tmp_path: Path) -> None:
    """Also a manifest's fact: a flipped digit in a data hash would make `resume` refuse the run."""
    folder = write(tmp_path, 2)
    for file in folder.iterdir():
        content = file.read_bytes()
        for at in range(0, len(content), 1 if file.name == "manifest.json" else 200):
            if content[at : at + 1].isspace():
                continue  # between the values of the manifest; in no file above
            file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
            with pytest.raises(CheckpointError):
                verify(folder)
        file.write_bytes(content)
    assert verify(folder)["step"] == read_manifest(folder)["step"] == 2


def test_no_good_checkpoint_is_an_error_and_none_at_all_is_not(tmp_path: Path) -> None:
    assert newest_good(tmp_path) == (None, [])
    (write(tmp_path, 1) / "a.bin").unlink()
    with pytest.raises(CheckpointError, match="no checkpoint is intact"):
        newest_good(tmp_path)


def test_a_full_disk_leaves_the_older_checkpoint_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path, 1)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    written = 0

    def full(path: Path, chunks: list[bytes]) -> None:
        nonlocal written
        content = b"".join(chunks)
        written += 1
        if written == 2:
            path.write_bytes(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        path.write_bytes(content)

    monkeypatch.setattr(checkpoint, "write_flushed", full)
    for step in (1, 2):
        written = 0
        with pytest.raises(StorageError, match="No space left"):
            write(tmp_path, step)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("moment", ["before_swap", "half_swapped", "swapped"])
def test_a_kill_at_any_moment_of_a_replacement_is_recovered(
    tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "best"
    write_checkpoint(folder, FILES, {"step": 1})

    class Killed(BaseException):
        pass

    rename = Path.rename
    calls = 0

    def dying_rename(self: Path, target: Any) -> Path:
        nonlocal calls
        calls += 1
        if calls == {"before_swap": 1, "half_swapped": 2, "swapped": 3}[moment]:
            raise Killed
        return rename(self, target)

    def leave(*args: Any, **kwargs: Any) -> None:
        """A killed process cleans up nothing."""

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", dying_rename)
        patched.setattr(checkpoint.shutil, "rmtree", leave)
        if moment == "swapped":
            write_checkpoint(folder, FILES, {"step": 2})
        else:
            with pytest.raises(Killed):
                write_checkpoint(folder, FILES, {"step": 2})
    recover(tmp_path)
    assert verify(folder)["step"] == (2 if moment == "swapped" else 1)
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_prune_keeps_the_newest_by_number(tmp_path: Path) -> None:
    for step in (9, 10, 100, 2):
        write(tmp_path, step)
    prune(tmp_path, keep=2)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-100", "checkpoint-10"}


def test_half_written_files_of_the_dead_are_deleted(tmp_path: Path) -> None:
    dead, mine, foreign = ".report.html.{}.partial", f".a.{os.getpid()}.partial", ".b.partial"
    gone = next(pid for pid in range(2**22 - 1, 0, -1) if not Path(f"/proc/{pid}").exists())
    for name in (dead.format(gone), mine, foreign):
        (tmp_path / name).touch()
    recover(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {mine, foreign}
