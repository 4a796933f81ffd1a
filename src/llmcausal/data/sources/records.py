"""Records of a JSON or JSONL file, whichever it is, each with where it stands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmcausal.data.formats.jsonl import read_objects, unique_keys
from llmcausal.data.sources.example import Item, LeftOut
from llmcausal.errors import DataError, UsageError
from llmcausal.storage import TooLargeError, read_at_most

MAX_JSON_BYTES = 512 * 2**20
"""JSON that is one value is read wholly; what is larger must come as JSON lines."""
_PEEK_BYTES = 2**16


def read_records(path: Path, left_out: LeftOut) -> Iterator[Item]:
    """Yields the objects of a JSON array, of one JSON object, or of JSON lines.

    Raises:
        DataError: If the file cannot be read, or is no JSON.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name a file in it (only bipia reads folders)")
    if _is_json_lines(path):
        report = _reporter(path, left_out)
        for number, record in read_objects(path, report):
            yield f"{path}:{number}", f"{path.stem}-{number}", record
        return
    content = read_json(path)
    items = content if isinstance(content, list) else [content]
    for number, record in enumerate(items, 1):
        if isinstance(record, dict):
            yield f"{path}: item {number}", f"{path.stem}-{number}", record
        else:
            left_out.add(f"{path}: item {number}", "item: must be an object")


def read_json(path: Path) -> Any:
    """Reads a file that is one JSON value.

    Raises:
        DataError: If it cannot be read, or is not JSON.
    """
    try:
        text = read_at_most(path, MAX_JSON_BYTES).decode("utf-8-sig")
        if not text.strip():
            raise DataError([f"{path}: the file is empty"])
        return json.loads(text, object_pairs_hook=unique_keys)
    except OSError as error:
        raise DataError([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise DataError(
            [f"{path}: not UTF-8 at byte {error.start + 1}; save it as UTF-8"]
        ) from error
    except json.JSONDecodeError as error:
        reason = f"not JSON: {error.msg} at column {error.colno}"
        raise DataError([f"{path}:{error.lineno}: line: {reason}"]) from error
    except TooLargeError as error:
        raise DataError(
            [f"{path}: {error}; make it JSON lines: jq -c '.[]' {path.name} > {path.stem}.jsonl"]
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError([f"{path}: not usable JSON: {error}"]) from error


def _reporter(path: Path, left_out: LeftOut) -> Any:
    def report(line: int, field: str, reason: str) -> None:
        kind, _, detail = reason.partition(": ")
        left_out.add(f"{path}:{line}", f"{field}: {kind}", detail)

    return report


def _is_json_lines(path: Path) -> bool:
    """A file of one object is either; a list, or an object over many lines, is plain JSON."""
    try:
        with path.open("rb") as file:
            start = file.read(_PEEK_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip()
    except OSError as error:
        raise DataError([f"{path}: cannot be read: {error.strerror}"]) from error
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return True
    first_line, line_end, _ = start.partition(b"\n")
    if not start.startswith(b"{") or not line_end:
        return False
    try:
        json.loads(first_line)
    except (ValueError, RecursionError):
        return False
    return True
