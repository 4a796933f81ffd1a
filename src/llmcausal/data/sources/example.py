"""A plain example: a task with its right answer and no attack yet."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from llmcausal.attacks.base import Split
from llmcausal.data.triplet import Check
from llmcausal.registry import nearest

T = TypeVar("T")

NAMED = 5
"""How many of the left out are named; the others are counted."""
MAX_CHECK_LENGTH = 1000
SHORT_WORD = 5
"""Answers of up to so many Latin letters count as whole words alone: "no" is in "know"."""
_NUMBER = re.compile(r"([^\w\s]?)(\d{1,3}(?:[, ]\d{3})+|\d+)(?:\.(\d+))?(\s?[^\w\s]?)")


@dataclass(frozen=True)
class SourceExample:
    """One task as a source gives it.

    Attributes:
        where: File and line, for messages.
        id: Unique within its source.
        system: The trusted system prompt; "" where the source has none of its own.
        document: The text to read, into which an attack is put.
        question: What is asked about it; "" where the text is itself the request.
        response: The right answer; empty only where the request allows it.
        check: How an answer is verified, where the source tells.
        category: Kind of task.
        context: Earlier turns of the conversation.
    """

    where: str
    id: str
    system: str
    document: str
    question: str
    response: str
    check: Check | None = None
    category: str = ""
    context: str = ""


@dataclass(frozen=True)
class SourceRequest:
    """What a source is asked for.

    Attributes:
        split: Which split to read, where a source has several.
        columns: Column of each field, for tables.
        unanswered: Examples may lack an answer: the model gives its own.
    """

    split: Split = "train"
    columns: Mapping[str, str] = field(default_factory=dict)
    unanswered: bool = False


class Unusable(Exception):
    """One example cannot be used; the message says why, the same for the same reason."""


@dataclass
class LeftOut:
    """What was not used, counted by reason, the first of it by name."""

    reasons: Counter[str] = field(default_factory=Counter)
    first: list[str] = field(default_factory=list)

    def add(self, where: str, reason: str, detail: str = "") -> None:
        """Counts one; `detail` is what differs from case to case."""
        self.reasons[reason] += 1
        if len(self.first) < NAMED:
            self.first.append(f"{where}: {reason}{f' ({detail})' if detail else ''}")

    @property
    def total(self) -> int:
        """How many were left out."""
        return self.reasons.total()


Source = Callable[[Path, SourceRequest, LeftOut], Iterator[SourceExample]]
"""Reads a file or folder. Raises DataError where it cannot be read at all."""

Item = tuple[str, str, Mapping[str, Any]]
"""Where it stands, an id, and the record."""


def usable(items: Iterable[Item], parse: Callable[[Item], T], left_out: LeftOut) -> Iterator[T]:
    """Yields what `parse` makes of each item; what it refuses is left out."""
    for item in items:
        try:
            yield parse(item)
        except Unusable as error:
            left_out.add(item[0], str(error))


def text_of(record: Mapping[str, Any], key: str, may_be_empty: bool = False) -> str:
    """Returns a record's text, stripped.

    Raises:
        Unusable: If it is missing, empty, no text, or no text that a file can hold.
    """
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
    """As `text_of`, for a value."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise Unusable(f"{name}: must be text")
    if "\0" in value or re.search(r"[\ud800-\udfff]", value):
        raise Unusable(f"{name}: holds a NUL character or a lone surrogate")
    if not value.strip() and not may_be_empty:
        raise Unusable(f"{name}: empty")
    return value.strip()


def answer_check(answers: Sequence[str]) -> Check | None:
    """Returns a check that any of the right answers passes; None where they are too long.

    An amount passes with and without thousands separators and `.00`, and not as part of another
    number; a short word not as part of another word.
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
    # "5" must not pass for "15", "5.2" or "5,000"; but a sentence may end after it.
    return (
        rf"(?<![\d.,]){re.escape(sign) + '?' if sign else ''}"
        rf"{'[, ]?'.join(groups)}{cents}(?!\d|[.,]\d){re.escape(unit) + '?' if unit else ''}"
    )
