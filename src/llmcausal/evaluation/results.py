"""Writes an evaluation to disk, each file whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmcausal.errors import StorageError
from llmcausal.storage import replace_file

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
        replace_file(folder / "generations.jsonl", [_encode(rows)])
        replace_file(folder / RESULTS, [_encode(summary_text)])
    except OSError as error:
        raise StorageError(f"{folder}: results cannot be written: {error.strerror}") from error
    return folder / RESULTS


def _encode(text: str) -> bytes:
    # A lone surrogate from hostile data becomes its own JSON escape instead of an error.
    return text.encode("utf-8", errors="backslashreplace")
