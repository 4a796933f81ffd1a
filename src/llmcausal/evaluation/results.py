"""Writes an evaluation to disk, each file whole or not at all.

A result is a mapping of `suite`, `checkpoint`, `command`, `notes`, `base` (or None), `tuned`,
`difference` (or None), `skipped`, `caveats`, `environment`, `generations` and `representations`. A
side (`base`, `tuned`) has the figures of `llmcausal.metrics` (those of representations in
`causal`), `groups` and, where it is not the untouched base, `name`. A figure is `value`, `n` and
the 95% interval `low`, `high`; all but `n` may be None.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmcausal.errors import StorageError
from llmcausal.evaluation.markdown import to_markdown
from llmcausal.evaluation.verdict import caveats
from llmcausal.storage import replace_file

RESULTS = "results.json"
GENERATIONS = "generations.jsonl"
REPRESENTATIONS = "representations.json"
REPORT = "report.md"


def write_results(result: Mapping[str, Any], folder: Path) -> Path:
    """Writes generations, representations and `report.md`, then `results.json` with the rest.

    Returns:
        Path of `results.json`.

    Raises:
        StorageError: If the disk refuses; files that were there before are intact.
        ValueError: If a figure is NaN or infinite.
    """
    apart = ("generations", "representations")
    summary = {key: value for key, value in result.items() if key not in apart}
    summary["caveats"] = caveats(result)
    files = {
        GENERATIONS: "".join(map(_line, result["generations"])),
        REPRESENTATIONS: _line(result.get("representations", {})),
        RESULTS: json.dumps(summary, ensure_ascii=False, allow_nan=False, indent=2) + "\n",
    }
    report = to_markdown(result)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in {REPORT: report, **files}.items():
            replace_file(folder / name, [_encode(text)])
    except OSError as error:
        raise StorageError(f"{folder}: results cannot be written: {error.strerror}") from error
    return folder / RESULTS


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"


def _encode(text: str) -> bytes:
    # A lone surrogate from hostile data becomes its own JSON escape instead of an error.
    return text.encode("utf-8", errors="backslashreplace")
