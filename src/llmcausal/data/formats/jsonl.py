"""Triplet JSONL: one object a line, with the canonical keys or their aliases."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llmcausal.data.formats.bounded_lines import read_objects
from llmcausal.data.formats.record import parse_record
from llmcausal.data.triplet import Check, Triplet
from llmcausal.errors import DataError, StorageError
from llmcausal.storage import replace_file

MAX_DEFECTS = 1000
"""Defects spelled out; a file of another kind altogether would fill the memory with them."""


def read_numbered(path: Path) -> list[tuple[int, Triplet]]:
    """Reads a JSONL file of triplets with their line numbers; blank lines are skipped.

    Raises:
        DataError: With every defect of the file, each as `file:line: field: reason`.
    """
    triplets: list[tuple[int, Triplet]] = []
    defects = _Defects(path)
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
    """Writes triplets with canonical keys; the file is whole, or as it was before.

    Raises:
        DataError: If a text cannot be written as UTF-8.
        StorageError: If the disk refuses.
    """
    try:
        replace_file(path, map(_encode, triplets))
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error


class _Defects:
    """What is wrong with one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self.messages: list[str] = []

    def add(self, line: int, field: str, reason: str) -> None:
        self.count += 1
        if self.count <= MAX_DEFECTS:
            self.messages.append(f"{self.path}:{line}: {field}: {reason}")

    def raise_if_any(self) -> None:
        if not self.count:
            return
        if self.count > MAX_DEFECTS:
            self.messages.append(f"{self.path}: and {self.count - MAX_DEFECTS} more defects")
        plural = "s" if self.count != 1 else ""
        raise DataError(
            self.messages, f"{self.count} defect{plural} in the data; nothing was started"
        )


def _encode(triplet: Triplet) -> bytes:
    texts = {
        name: getattr(triplet, name)
        for name in (
            "id",
            "system",
            "context",
            "benign",
            "benign_cf",
            "injection",
            "response",
            "response_cf",
            "response_injection",
            "obeying",
            "system_obeying",
            "response_obeying",
            "category",
        )
    }
    record: dict[str, Any] = {name: text for name, text in texts.items() if text}
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


def _check_object(check: Check | None) -> dict[str, dict[str, str]]:
    return {"check": {check.kind: check.value}} if check else {}
