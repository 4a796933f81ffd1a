"""Plain examples, which are tasks with right answers and no attack, and the readers of records."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from llmcausal.attacks.base import Split
from llmcausal.data.formats.jsonl import read_objects, readable, unique_keys
from llmcausal.data.triplet import NOT_TEXT, Check
from llmcausal.errors import DataError, UsageError
from llmcausal.registry import nearest
from llmcausal.storage import TooLargeError, read_at_most

T = TypeVar("T")

MAX_JSON_BYTES = 512 * 2**20
"""Limit of a file that is one JSON value, which memory holds whole; larger files must be JSONL."""
_PEEK_BYTES = 2**16
NAMED = 5
"""Unusable records that are named; the others are only counted."""
MAX_CHECK_LENGTH = 1000
SHORT_WORD = 5
"""Latin answers up to this length must be whole words, since "no" is in "know"."""
_NUMBER = re.compile(r"([^\w\s]?)(\d{1,3}(?:[, ]\d{3})+|\d+)(?:\.(\d+))?(\s?[^\w\s]?)")


@dataclass(frozen=True)
class SourceExample:
    """One task of a source."""

    where: str  # file and line, for messages
    id: str  # unique within its source
    system: str  # the trusted system prompt
    document: str  # the text to read, which may carry an attack
    question: str  # about the document; "" if this is itself the request
    response: str  # the right answer; empty only if the request allows it
    check: Check | None = None
    category: str = ""
    context: str = ""  # earlier turns of the conversation


@dataclass(frozen=True)
class SourceRequest:
    split: Split = "train"  # to read, if a source has several
    columns: Mapping[str, str] = field(default_factory=dict)  # by field of a table
    unanswered: bool = False  # whether examples may lack an answer: the model gives its own


class Unusable(Exception):
    """One example cannot be used; equal reasons have equal messages."""


@dataclass
class LeftOut:
    """The unusable records, counted by reason, and the first of them by name."""

    reasons: Counter[str] = field(default_factory=Counter)
    first: list[str] = field(default_factory=list)

    def add(self, where: str, reason: str, detail: str = "") -> None:
        self.reasons[reason] += 1
        if len(self.first) < NAMED:
            self.first.append(f"{where}: {reason}{f' ({detail})' if detail else ''}")

    @property
    def total(self) -> int:
        return self.reasons.total()


Source = Callable[[Path, SourceRequest, LeftOut], Iterator[SourceExample]]
"""Reads a file or folder; raises a DataError if it cannot be read at all."""

Item = tuple[str, str, Mapping[str, Any]]
"""File and line, an id, and the record."""


def usable(items: Iterable[Item], parse: Callable[[Item], T], left_out: LeftOut) -> Iterator[T]:
    """Yields the parsed items; `left_out` receives the items that `parse` refuses."""
    for item in items:
        try:
            yield parse(item)
        except Unusable as error:
            left_out.add(item[0], str(error))


def parsed(path: Path, parse: Callable[[Item], T], left_out: LeftOut) -> Iterator[T]:
    """Yields the parsed records of a JSON or JSONL file; as `usable`."""
    return usable(read_records(path, left_out), parse, left_out)


def text_of(record: Mapping[str, Any], key: str, may_be_empty: bool = False) -> str:
    """Returns a record's stripped text; raises `Unusable` if there is no usable text."""
    value = record.get(key)
    if value is None and may_be_empty:
        return ""
    if key in record and value is None:
        raise Unusable(f"{key}: is null")
    if value is None:
        known = [name for name in record if isinstance(name, str) and len(name) < 60]
        raise Unusable(f"{key}: missing{nearest(key, known)}")
    return sound_text(key, value, may_be_empty)


def sound_text(name: str, value: Any, may_be_empty: bool = False) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise Unusable(f"{name}: must be text")
    if NOT_TEXT.search(value):
        raise Unusable(f"{name}: holds a NUL character or a lone surrogate")
    if not value.strip() and not may_be_empty:
        raise Unusable(f"{name}: empty")
    return value.strip()


def answer_check(answers: Sequence[str]) -> Check | None:
    """Returns a check that any of the right answers passes; None if they are too long.

    An amount passes with and without thousands separators and `.00`. A number inside another
    number fails, and so does a short word inside another word.
    """
    distinct = list(dict.fromkeys(answer.strip() for answer in answers if answer.strip()))
    if not distinct or sum(map(len, distinct)) > MAX_CHECK_LENGTH // 4:
        return None
    patterns = [_answer_pattern(answer) for answer in distinct]
    if patterns == [re.escape(distinct[0])]:
        return Check("contains", distinct[0])
    pattern = "|".join(patterns)
    return Check("regex", pattern) if len(pattern) <= MAX_CHECK_LENGTH else None


def _answer_pattern(answer: str) -> str:
    number = _NUMBER.fullmatch(answer)
    if not number:
        is_short = len(answer) <= SHORT_WORD and answer.isascii()  # other scripts have no spaces
        return rf"(?<!\w){re.escape(answer)}(?!\w)" if is_short else re.escape(answer)
    sign, whole, decimals, unit = number.groups()
    digits = re.sub(r"\D", "", whole)
    groups = [digits[max(0, end - 3) : end] for end in range(len(digits), 0, -3)][::-1]
    cents = rf"\.{decimals}" if decimals else ""
    if decimals in (None, "00"):
        cents = r"(?:\.00)?"
    # "5" must not pass for "15", "5.2" or "5,000", but a sentence may end after it.
    return (
        rf"(?<![\d.,]){re.escape(sign) + '?' if sign else ''}"
        rf"{'[, ]?'.join(groups)}{cents}(?!\d|[.,]\d){re.escape(unit) + '?' if unit else ''}"
    )


def read_records(path: Path, left_out: LeftOut) -> Iterator[Item]:
    """Yields the objects of a JSON array, a single JSON object, or JSON lines."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name a file in it (only bipia reads folders)")
    if _is_json_lines(path):

        def report(line: int, field: str, reason: str) -> None:
            kind, _, detail = reason.partition(": ")
            left_out.add(f"{path}:{line}", f"{field}: {kind}", detail)

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
    """Reads a file that is one JSON value; raises a DataError if that fails."""
    with readable(path):
        try:
            text = read_at_most(path, MAX_JSON_BYTES).decode("utf-8-sig")
        except TooLargeError as error:
            advice = f"make it JSON lines: jq -c '.[]' {path.name} > {path.stem}.jsonl"
            raise DataError([f"{path}: {error}; {advice}"]) from error
    if not text.strip():
        raise DataError([f"{path}: the file is empty"])
    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except json.JSONDecodeError as error:
        reason = f"not JSON: {error.msg} at column {error.colno}"
        raise DataError([f"{path}:{error.lineno}: line: {reason}"]) from error
    except (ValueError, RecursionError) as error:
        raise DataError([f"{path}: not usable JSON: {error}"]) from error


def _is_json_lines(path: Path) -> bool:
    """Looks at suffix and first line; a list, or an object over many lines, is plain JSON."""
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return True
    with readable(path), path.open("rb") as file:
        start = file.read(_PEEK_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip()
    first_line, line_end, _ = start.partition(b"\n")
    if not start.startswith(b"{") or not line_end:
        return False
    with suppress(ValueError, RecursionError):
        json.loads(first_line)
        return True
    return False
