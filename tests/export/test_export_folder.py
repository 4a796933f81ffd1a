from __future__ import annotations

import errno
from pathlib import Path

import pytest
from safetensors import SafetensorError

from llmcausal.errors import StorageError, UsageError
from llmcausal.export.artifact import new_folder


def test_appears_whole(tmp_path: Path) -> None:
    out = tmp_path / "a" / "out"
    with new_folder(out) as work:
        assert not out.exists()
        assert work.parent == out.parent
        (work / "sub").mkdir()
        (work / "sub" / "file").write_text("x", encoding="utf-8")
        (work / "sub" / "file").chmod(0o600)
    assert (out / "sub" / "file").read_text(encoding="utf-8") == "x"
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    (tmp_path / "ordinary").touch()
    assert (out / "sub" / "file").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_takes_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with new_folder(tmp_path / "out") as work:
        (work / "file").touch()
    assert (tmp_path / "out" / "file").exists()


def test_does_not_replace_what_appeared_meanwhile(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="not empty"), new_folder(out):  # noqa: PT012
        out.mkdir()
        (out / "theirs").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "theirs").exists()


@pytest.mark.parametrize(
    ("raised", "expected", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), StorageError, "No space left"),
        (SafetensorError("I/O error: No space left"), StorageError, "No space left"),
        (OSError("model not found"), OSError, "model not found"),
        (ValueError("a bug"), ValueError, "a bug"),
        (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
    ],
)
def test_leaves_nothing_behind(
    tmp_path: Path, raised: BaseException, expected: type[BaseException], message: str
) -> None:
    with pytest.raises(expected, match=message), new_folder(tmp_path / "out") as work:  # noqa: PT012
        (work / "half").touch()
        raise raised
    assert not list(tmp_path.iterdir())
