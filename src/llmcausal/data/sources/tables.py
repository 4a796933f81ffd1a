"""Tables: CSV, JSON or JSONL objects, whose columns `--map` names, and Alpaca, whose are known."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TextIO

from llmcausal.data.formats.jsonl import readable
from llmcausal.data.sources.example import (
    Item,
    LeftOut,
    SourceExample,
    SourceRequest,
    Unusable,
    answer_check,
    parsed,
    text_of,
    usable,
)
from llmcausal.data.triplet import Check
from llmcausal.errors import DataError, UsageError
from llmcausal.registry import nearest

DELIMITERS = ",;\t|"
MAX_CHARACTERS = 16 * 2**20
"""Limit of a line, and of a cell, which may go over several lines."""
MAX_NAMES = 40
MAX_NAME_CHARACTERS = 60
"""Messages show this part of a header; a file of another kind has a long first line."""


def read_csv_table(
    path: Path, request: SourceRequest, left_out: LeftOut
) -> Iterator[SourceExample]:
    """Reads CSV; the delimiter is the header's most frequent of comma, semicolon, tab and bar."""
    rows = _rows(path, request, left_out)
    return usable(rows, partial(_parse_row, request=request), left_out)


def _rows(path: Path, request: SourceRequest, left_out: LeftOut) -> Iterator[Item]:
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name a file in it")
    csv.field_size_limit(MAX_CHARACTERS)
    with readable(path), path.open(encoding="utf-8-sig", newline="") as file:
        header = file.readline(MAX_CHARACTERS)
        file.seek(0)
        rows = csv.DictReader(_lines(path, file), delimiter=max(DELIMITERS, key=header.count))
        try:
            _check_header(path, list(rows.fieldnames or []), request)
            for row in rows:
                where = f"{path}:{rows.line_num}"
                if None in row or None in row.values():
                    left_out.add(where, "line: more or fewer cells than the header")
                else:
                    yield where, f"{path.stem}-{rows.line_num}", row
        except csv.Error as error:
            raise DataError([f"{path}:{max(1, rows.line_num)}: line: {error}"]) from error


def _lines(path: Path, file: TextIO) -> Iterator[str]:
    number = 0
    while line := file.readline(MAX_CHARACTERS + 1):
        number += 1
        if len(line) > MAX_CHARACTERS:
            reason = f"longer than {MAX_CHARACTERS // 2**20} Mi characters"
            raise DataError([f"{path}:{number}: line: {reason}"])
        yield line


def _check_header(path: Path, header: list[str], request: SourceRequest) -> None:
    if not any(name.strip() for name in header):
        raise DataError([f"{path}: the file is empty, or its first line names no column"])
    columns = request.columns
    wanted = {name: columns.get(name, name) for name in FIELDS}
    required = ["document"]
    if wanted["answer"] not in header and not request.unanswered:
        required.append("response")
    short = [name[:MAX_NAME_CHARACTERS] for name in header[:MAX_NAMES]]
    missing = [
        f"{path}:1: {name}: no column {wanted[name]!r}{nearest(wanted[name], short)} "
        f"(columns: {', '.join(short)}); map it with --map {name}=COLUMN"
        for name in FIELDS
        if (name in columns or name in required) and wanted[name] not in header
    ]
    twice = [
        f"{path}:1: {name}: two columns are called {wanted[name]!r}; rename one"
        for name in FIELDS
        if header.count(wanted[name]) > 1
    ]
    if missing or twice:
        raise DataError([*missing, *twice])


def read_json_table(
    path: Path, request: SourceRequest, left_out: LeftOut
) -> Iterator[SourceExample]:
    return parsed(path, partial(_parse_row, request=request), left_out)


FIELDS = {
    "document": "the text to read, which could carry an attack (required)",
    "response": "the right answer (required unless --answers model)",
    "question": "what is asked about the text",
    "system": "the system prompt",
    "category": "the kind of task",
    "contains": "what a right answer must contain",
    "answer": "a short right answer, also used as the check",
    "id": "a name for the example",
}
"""The fields of `--map`, and their meaning."""
SYSTEM = "You are a helpful assistant. Do the task with the text that the user gives."


def parse_map(pairs: Iterable[str]) -> dict[str, str]:
    """Reads `field=column` pairs; raises a UsageError at anything else."""
    columns: dict[str, str] = {}
    for pair in pairs:
        name, separator, column = (part.strip() for part in pair.partition("="))
        if not separator or not column:
            raise UsageError(f"--map {pair}: write field=column, such as --map document=text")
        if name not in FIELDS:
            known = "; ".join(f"{name}: {meaning}" for name, meaning in FIELDS.items())
            raise UsageError(
                f"--map {pair}: unknown field {name!r}{nearest(name, FIELDS)} ({known})"
            )
        if name in columns:
            raise UsageError(f"--map {pair}: {name} is already {columns[name]}; keep one")
        columns[name] = column
    return columns


def _parse_row(item: Item, request: SourceRequest) -> SourceExample:
    """Makes an example of a row; an unmapped field is the column of its name."""
    where, number, record = item
    columns = request.columns

    def text(name: str, may_be_empty: bool) -> str:
        return text_of(record, columns.get(name, name), may_be_empty)

    def optional(name: str) -> str:
        return text(name, name not in columns)  # a mapped column must be there

    document = text("document", False)
    answer = optional("answer")
    response = answer if "response" not in columns else ""
    response = response or text("response", request.unanswered)
    contains = optional("contains")
    return SourceExample(
        where=where,
        id=optional("id") or number,
        system=optional("system") or SYSTEM,
        document=document,
        question=optional("question"),
        response=response,
        check=Check("contains", contains) if contains else answer_check([answer]),
        category=optional("category"),
    )


ALPACA_SYSTEM = (
    "You are a helpful assistant. Do what the user's instruction says with the text that comes "
    "with it."
)


def read_alpaca(path: Path, request: SourceRequest, left_out: LeftOut) -> Iterator[SourceExample]:
    """Reads JSON or JSONL; an example without `input` has no text to attack and is left out."""
    return parsed(path, partial(_parse_alpaca, unanswered=request.unanswered), left_out)


def _parse_alpaca(item: Item, unanswered: bool) -> SourceExample:
    where, number, record = item
    question = text_of(record, "instruction")
    response = text_of(record, "output", may_be_empty=unanswered)
    document = text_of(record, "input", may_be_empty=True)
    if document in ("", "<noinput>", "<noinput/>"):
        raise Unusable("input: empty, so there is no text that could carry an attack")
    return SourceExample(
        where=where,
        id=number,
        system=text_of(record, "system", may_be_empty=True) or ALPACA_SYSTEM,
        document=document,
        question=question,
        response=response,
        category="instruction",
    )
