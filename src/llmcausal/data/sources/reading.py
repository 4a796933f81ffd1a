"""A source read wholly: its examples, and the hash of what they were read from."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

from llmcausal.data.sources import SOURCES
from llmcausal.data.sources.example import LeftOut, Source, SourceExample, SourceRequest
from llmcausal.errors import DataError, UsageError
from llmcausal.registry import nearest

COLUMN_SOURCES = ("csv", "jsonl")
_CHUNK_BYTES = 2**20


def read_examples(
    name: str, path: Path, request: SourceRequest, left_out: LeftOut, system: str = ""
) -> list[SourceExample]:
    """Reads every usable example of a source.

    Args:
        name: Name of the source.
        path: File or folder.
        request: Which split and columns.
        left_out: Told what cannot be used.
        system: System prompt in place of the source's own; "" keeps that.

    Raises:
        UsageError: If there is no such source, or it takes no columns.
        DataError: If it cannot be read, or nothing of it can be used.
    """
    if name not in SOURCES.entries and ":" not in name:
        known = ", ".join(SOURCES.entries)
        hint = nearest(name, SOURCES.entries)
        raise UsageError(f"--from: unknown data source {name!r}{hint} (known: {known})")
    if request.columns and name not in COLUMN_SOURCES and ":" not in name:
        raise UsageError(f"--map is for {' and '.join(COLUMN_SOURCES)}; {name} has fixed fields")
    read: Source = SOURCES.load(name)
    examples = list(_distinct(read(path, request, left_out), left_out))
    if not examples:
        raise DataError(
            left_out.first or [f"{path}: it holds no examples"],
            f"{path}: none of {left_out.total} examples can be used as {name}",
        )
    if system:
        examples = [dataclasses.replace(example, system=system) for example in examples]
    return examples


def _distinct(examples: Iterator[SourceExample], left_out: LeftOut) -> Iterator[SourceExample]:
    """Gives each example an id of its own, and drops those that say the same."""
    ids: set[str] = set()
    seen: set[tuple[str, ...]] = set()
    for example in examples:
        content = (example.system, example.context, example.document, example.question)
        if content in seen:
            left_out.add(example.where, "document: the same task and text as an earlier example")
            continue
        seen.add(content)
        if not example.id.isprintable():
            left_out.add(example.where, "id: holds a control character or line break")
            continue
        name, again = example.id, 1
        while name in ids:
            again += 1
            name = f"{example.id}.{again}"
        ids.add(name)
        yield dataclasses.replace(example, id=name)


def hash_of(path: Path) -> str:
    """Returns the sha256 of a file, or of a folder's JSON files with their names.

    Raises:
        DataError: If one cannot be read.
    """
    digest = hashlib.sha256()
    files = sorted(path.rglob("*.json*")) if path.is_dir() else [path]
    try:
        for file in files:
            if path.is_dir():
                digest.update(f"{file.relative_to(path).as_posix()}\0".encode())
            with file.open("rb") as content:
                while chunk := content.read(_CHUNK_BYTES):
                    digest.update(chunk)
    except OSError as error:
        raise DataError([f"{path}: cannot be read: {error.strerror}"]) from error
    return digest.hexdigest()
