"""Writes an evaluation to disk, each file whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmcausal.errors import StorageError

RESULTS = "results.json"


def write_results(result: Mapping[str, Any], folder: Path) -> Path:
    """Writes `generations.jsonl`, then `results.json` with everything else.

    Returns:
        Path of `results.json`.

    Raises:
        StorageError: If the disk refuses; files that were there before are intact.
        ValueError: If a figure is NaN or infinite.
    """
    summary = {key: value for key, value in result.items() if key != "generations"}
    summary_text = json.dumps(summary, ensure_ascii=False, allow_nan=False, indent=2) + "\n"
    rows = "".join(
        json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in result["generations"]
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / "generations.jsonl", rows)
        _replace(folder / RESULTS, summary_text)
    except OSError as error:
        raise StorageError(f"{folder}: results cannot be written: {error.strerror}") from error
    return folder / RESULTS


def _replace(path: Path, text: str) -> None:
    # A lone surrogate from hostile data becomes its own JSON escape instead of an error.
    data = text.encode("utf-8", errors="backslashreplace")
    work = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with work.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        work.replace(path)
    finally:
        work.unlink(missing_ok=True)
