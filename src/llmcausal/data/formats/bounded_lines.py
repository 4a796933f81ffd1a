"""JSON objects of a file, one a line: bounded in memory, every bad line reported."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from llmcausal.errors import DataError

MAX_LINE_BYTES = 16 * 2**20

Report = Callable[[int, str, str], None]
"""Told the line, field and reason of a defect."""


class _RepeatedKey(ValueError):
    """An object gives one key twice, and which value is meant cannot be known."""


def read_objects(path: Path, report: Report) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the objects of a file with the numbers of their lines; blank lines are skipped.

    Raises:
        DataError: If the file cannot be read.
    """
    if "\0" in str(path):
        raise DataError([f"{str(path)!a}: a path cannot hold a NUL character"])
    try:
        with path.open("rb") as file:
            for number, line in _lines(file, report):
                record = _parse_line(line, number, report)
                if record is not None:
                    yield number, record
    except OSError as error:
        raise DataError([f"{path}: cannot be read: {error.strerror}"]) from error


def _lines(file: BinaryIO, report: Report) -> Iterator[tuple[int, bytes]]:
    """Yields the lines that are not blank, never holding more than one of bounded size."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            report(number, "line", f"longer than {MAX_LINE_BYTES // 2**20} MiB")
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE_BYTES)
            continue
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.strip():
            yield number, line


def _parse_line(line: bytes, number: int, report: Report) -> dict[str, Any] | None:
    try:
        record = json.loads(line.decode("utf-8"), object_pairs_hook=unique_keys)
    except UnicodeDecodeError as error:
        byte = f"byte 0x{line[error.start]:02x} at position {error.start + 1}"
        report(number, "line", f"not UTF-8: {byte}")
    except json.JSONDecodeError as error:
        report(number, "line", f"not JSON: {error.msg} at column {error.colno}")
    except _RepeatedKey as error:
        report(number, str(error), "given twice in one object")
    except (ValueError, RecursionError) as error:
        # A number of thousands of digits, or brackets nested thousands deep.
        report(number, "line", f"not usable JSON: {error}")
    else:
        if isinstance(record, dict):
            return record
        report(number, "line", "must be a JSON object in braces")
    return None


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Makes an object of its pairs; for `json.loads(object_pairs_hook=...)`.

    Raises:
        ValueError: If a key is given twice.
    """
    record = dict(pairs)
    if len(record) < len(pairs):
        key, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise _RepeatedKey(ascii(key[:60])[1:-1])
    return record
