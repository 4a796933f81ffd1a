"""JSON Lines, read line by line within bounds, and triplet files in it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from llmcausal.data.formats.record import TEXTS, parse_record
from llmcausal.data.spans import Span
from llmcausal.data.triplet import Check, Triplet
from llmcausal.errors import DataError, writing
from llmcausal.storage import replace_file

MAX_LINE_BYTES = 16 * 2**20

Report = Callable[[int, str, str], None]
"""Receives the line, field and reason of a defect."""


class _RepeatedKey(ValueError):
    """An object gives one key twice, so its value is ambiguous."""


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Reports a file that cannot be read, or is not UTF-8, as a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise DataError(
            [f"{path}: not UTF-8 at byte {error.start + 1}; save it as UTF-8"]
        ) from error


def read_objects(path: Path, report: Report) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields a file's objects with their line numbers; skips blank lines."""
    if "\0" in str(path):
        raise DataError([f"{str(path)!a}: a path cannot hold a NUL character"])
    with readable(path), path.open("rb") as file:
        for number, line in _lines(file, report):
            record = _parse_line(line, number, report)
            if record is not None:
                yield number, record


def _lines(file: BinaryIO, report: Report) -> Iterator[tuple[int, bytes]]:
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
        # A number with thousands of digits, or brackets nested thousands deep.
        report(number, "line", f"not usable JSON: {error}")
    else:
        if isinstance(record, dict):
            return record
        report(number, "line", "must be a JSON object in braces")
    return None


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json.loads(object_pairs_hook=...)`; raises a ValueError if a key is given twice."""
    record = dict(pairs)
    if len(record) < len(pairs):
        key, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise _RepeatedKey(ascii(key[:60])[1:-1])
    return record


MAX_DEFECTS = 1000
"""Defects that are listed. All defects in a file of another kind would fill the memory."""


def read_numbered(path: Path) -> list[tuple[int, Triplet]]:
    """Reads triplets with their line numbers; raises a DataError with every defect."""
    triplets: list[tuple[int, Triplet]] = []
    defects = Defects(path)
    first_lines: dict[str, int] = {}
    for number, record in read_objects(path, defects.add):
        triplet, reasons = parse_record(record)
        for field, reason in reasons:
            defects.add(number, field, reason)
        identity = record.get("id")
        if isinstance(identity, str) and identity.strip():
            first = first_lines.setdefault(identity, number)
            if first != number:
                shown = ascii(identity[:60])
                defects.add(number, "id", f"{shown} is already the id of line {first}")
        if triplet is not None:
            triplets.append((number, triplet))
    if not triplets and not defects.count:
        raise DataError([f"{path}: the file holds no triplets"])
    defects.raise_if_any()
    return triplets


def write_triplets(path: Path, triplets: Iterable[Triplet]) -> None:
    """Writes triplets with canonical keys; after a failure the file is as it was before.

    Raises:
        DataError: If a text cannot be written as UTF-8.
        StorageError: If the disk refuses.
    """
    with writing(path):
        replace_file(path, map(_encode, triplets))


class Defects:
    """Counts a file's defects and the lines that have any; keeps the first `MAX_DEFECTS`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self.lines = 0
        self._line = 0
        self.messages: list[str] = []

    def add(self, line: int, field: str, reason: str) -> None:
        self.count += 1
        self.lines += line != self._line
        self._line = line
        if self.count <= MAX_DEFECTS:
            self.messages.append(f"{self.path}:{line}: {field}: {reason}")

    def raise_if_any(self) -> None:
        if self.count > MAX_DEFECTS:
            more = f"{self.path}: and {self.count - MAX_DEFECTS} more defects"
            summary = f"{self.count} defects in the data; nothing was started"
            raise DataError([*self.messages, more], summary)
        if self.count:
            raise DataError(self.messages)


def _encode(triplet: Triplet) -> bytes:
    record: dict[str, Any] = {name: text for name in TEXTS if (text := getattr(triplet, name))}
    if triplet.spans:
        record["spans"] = [_span_object(span) for span in triplet.spans]
    if triplet.attack:
        attack = {key: value for key, value in vars(triplet.attack).items() if value}
        record["attack"] = attack | _check_object(triplet.attack.check)
    record |= _check_object(triplet.check)
    if triplet.unfinished:
        record["unfinished"] = list(triplet.unfinished)
    try:
        return json.dumps(record, ensure_ascii=False).encode("utf-8") + b"\n"
    except UnicodeEncodeError as error:
        raise DataError([f"triplet {triplet.id!a}: not writable as UTF-8: {error}"]) from error


def _span_object(span: Span) -> dict[str, Any]:
    text = {} if span.text is None else {"text": span.text}
    return {"role": span.role, "trusted": span.trusted, **text}


def _check_object(check: Check | None) -> dict[str, dict[str, str]]:
    return {"check": {check.kind: check.value}} if check else {}
