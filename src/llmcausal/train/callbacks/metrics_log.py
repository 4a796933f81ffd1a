"""metrics.jsonl: one JSON object per step, on disk before the next step starts."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmcausal.errors import StorageError
from llmcausal.storage import replace_file
from llmcausal.train.callback import Callback, FitContext, Record

FILE_NAME = "metrics.jsonl"


class MetricsLog(Callback):
    """Appends each record to `run_dir/metrics.jsonl`.

    JSON has no NaN or infinity: such a figure is null, and `non_finite` holds its value as text.
    On resume, a torn last line and rows of steps after the checkpoint are cut. Must come before
    the callback that writes checkpoints: step N's checkpoint promises step N's row.

    Raises:
        StorageError: From any hook, if a read or write fails.
    """

    def __init__(self) -> None:
        self._path = Path(FILE_NAME)
        self._last_step = -1

    def on_fit_start(self, context: FitContext) -> None:
        self._path = context.run_dir / FILE_NAME
        step = context.state.step
        self._last_step = cut_rows(self._path, after_step=step)
        if 0 < step != self._last_step:
            context.notes.append(
                f"{self._path} ends at step {max(self._last_step, 0)}, the checkpoint is from step "
                f"{step}: the rows between are lost"
            )

    def on_record(self, context: FitContext, record: Record) -> None:
        step = int(record["step"])
        if step <= self._last_step:  # a resumed run may repeat the validation of step 0
            cut_rows(self._path, after_step=step - 1)
        with _storage_errors(self._path), self._path.open("ab") as file:
            file.write(_to_json(record))
            file.flush()
            os.fsync(file.fileno())
        self._last_step = step


def read_rows(path: Path) -> list[Record]:
    """Returns a metrics file's rows, oldest first; none if there is no file."""
    with _storage_errors(path):
        lines = path.read_bytes().splitlines() if path.exists() else []
    return [row for row in map(_parse, lines) if row is not None]


def cut_rows(path: Path, after_step: int) -> int:
    """Removes rows of steps after `after_step` and a torn end; atomic.

    Returns:
        The last kept row's step, or -1.

    Raises:
        StorageError: If a line before a kept row is damaged, or a write fails.
    """
    if not path.exists():
        return -1
    with _storage_errors(path):
        content = path.read_bytes()
    kept: list[bytes] = []
    last_step, damaged = -1, 0
    for number, line in enumerate(content.splitlines(), start=1):
        row = _parse(line)
        if row is None:
            damaged = damaged or number
        elif row["step"] <= after_step:
            if damaged:
                raise StorageError(
                    f"{path}:{damaged}: not a row of figures, but rows to be kept follow it; "
                    "remove the line or move the file away"
                )
            kept.append(line + b"\n")
            last_step = row["step"]
    if b"".join(kept) != content:
        with _storage_errors(path):
            replace_file(path, kept)
    return last_step


def _parse(line: bytes) -> Record | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and type(row.get("step")) is int else None


def _to_json(record: Record) -> bytes:
    row = {key: _plain(value) for key, value in record.items()}
    odd = {k: str(v) for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)}
    if odd:
        row = {**row, **dict.fromkeys(odd), "non_finite": odd}
    return json.dumps(row, allow_nan=False).encode() + b"\n"


def _plain(value: Any) -> Any:
    """Returns a float for a one-element tensor or numpy number of a user's callback."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else float(value)


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written or read: {error.strerror or error}. Free space or correct "
            f"its permissions, then run `llmcausal resume {path.parent}`: it continues from the "
            "last checkpoint."
        ) from error
