"""Reads a run directory's files; notes in the report name missing ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmcausal.errors import StorageError, UsageError
from llmcausal.storage import TooLargeError, read_at_most
from llmcausal.train.callbacks.metrics_log import FILE_NAME as METRICS
from llmcausal.train.callbacks.metrics_log import read_rows

MAX_FILE_BYTES = 256 * 2**20
_CONFIG = "config.toml"
_ENVIRONMENT = "environment.json"
_RESULTS = "results.json"
_GENERATIONS = "generations.jsonl"
_REPRESENTATIONS = "representations.json"


@dataclass(frozen=True)
class RunFiles:
    """A run's readable files.

    Attributes:
        result: The evaluation as from `evaluate_model`, with `generations` and `representations`;
            None before there is one. Parts may be absent.
        metrics_rows: metrics.jsonl.
        config_text: config.toml; empty if missing.
        environment: The training's command, versions and machine; None if missing. `result` has
            the evaluation's.
        notes: What is missing or damaged.
    """

    result: dict[str, Any] | None
    metrics_rows: Sequence[dict[str, Any]] = ()
    config_text: str = ""
    environment: dict[str, Any] | None = None
    notes: Sequence[str] = ()


def read_run(run_dir: Path, evaluation: Path | None = None) -> RunFiles:
    """Reads a run directory, also during training.

    The evaluation's default folder is the first with results: `evaluation/`, `evaluation-best/`,
    then other `evaluation-*/` by name.

    Raises:
        UsageError: If the directory is not a run.
    """
    notes: list[str] = []
    folders = [run_dir / "evaluation", run_dir / "evaluation-best"]
    folders += sorted(run_dir.glob("evaluation-*"))
    measured = (each for each in folders if (each / _RESULTS).is_file())
    folder = evaluation or next(measured, folders[0])
    present = [run_dir / _CONFIG, run_dir / METRICS, folder / _RESULTS]
    if not any(path.is_file() for path in present):
        raise UsageError(
            f"{run_dir}: not a run directory; one holds {_CONFIG}, {METRICS} or an evaluation"
        )
    result = _read_result(folder, notes)
    try:
        rows = read_rows(run_dir / METRICS)
    except StorageError as error:
        rows = []
        notes.append(str(error))
    if not rows:
        notes.append(f"{METRICS} holds no step yet, so there are no training curves.")
    return RunFiles(
        result=result,
        metrics_rows=rows,
        config_text=_read_text(run_dir / _CONFIG, notes),
        environment=_read_object(run_dir / _ENVIRONMENT, notes),
        notes=notes,
    )


def _read_result(folder: Path, notes: list[str]) -> dict[str, Any] | None:
    result = _read_object(folder / _RESULTS, notes)
    if result is None:
        return None
    if not isinstance(result.get("tuned"), dict):
        notes.append(f"{folder / _RESULTS} holds no figures of the tuned model and is left out.")
        return None
    result["generations"] = _read_lines(folder / _GENERATIONS, notes)
    result["representations"] = _read_object(folder / _REPRESENTATIONS, notes) or {}
    return result


def _read_text(path: Path, notes: list[str]) -> str:
    try:
        return read_at_most(path, MAX_FILE_BYTES).decode("utf-8", errors="backslashreplace")
    except TooLargeError as error:
        notes.append(f"{path} is {error} and is left out.")
    except FileNotFoundError:
        notes.append(f"{path} is not there.")
    except OSError as error:
        notes.append(f"{path} cannot be read: {error.strerror}.")
    return ""


def _read_object(path: Path, notes: list[str]) -> dict[str, Any] | None:
    text = _read_text(path, notes)
    if not text:
        return None
    value, defect = _object(text)
    if defect:
        notes.append(f"{path} is {defect} and is left out.")
    return value


def _read_lines(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    lines = [line for line in _read_text(path, notes).split("\n") if line.strip()]
    rows = [row for line in lines if (row := _object(line)[0]) is not None]
    if bad := len(lines) - len(rows):
        notes.append(f"{path}: {bad} damaged line{'s' if bad > 1 else ''} left out.")
    return rows


def _object(text: str) -> tuple[dict[str, Any] | None, str]:
    """Returns the JSON object, or None and the text's defect."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return None, f"not JSON ({type(error).__name__}: {error})"
    return (value, "") if isinstance(value, dict) else (None, "not a JSON object")
