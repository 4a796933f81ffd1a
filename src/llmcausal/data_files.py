"""Reads shipped TOML data; reports a mistake in any TOML file by file, line and key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from llmcausal.errors import DataError
from llmcausal.registry import nearest

_HEADER = re.compile(r"\s*(\[\[?)\s*([\w.\-]+)\s*\]")
_ENTRY = re.compile(r"\s*([\w.\-\"']+)\s*=")

Place = tuple[str | int, ...]
"""A value's location as in pydantic: keys, and indices of repeated tables."""


class DataFile(BaseModel):
    """A file's schema; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


T = TypeVar("T", bound=DataFile)


def read_table(file: Traversable, form: type[T]) -> T:
    """Reads a TOML file; raises a DataError with every defect as `file:line: key: reason`."""
    text = file.read_text(encoding="utf-8")
    try:
        values = tomllib.loads(text)
    except ValueError as error:
        raise DataError([f"{file}: not valid TOML: {error}"]) from error
    try:
        return form.model_validate(values)
    except ValidationError as error:
        raise DataError([each.at(file) for each in defects_of(error, form, text)]) from None


@dataclass(frozen=True)
class Defect:
    """An error in one value; `line` is the value's, or the innermost enclosing table's."""

    key: str
    line: int | None
    reason: str

    def at(self, file: object) -> str:
        """Returns `file:line: key: reason`."""
        return f"{file}{f':{self.line}' if self.line else ''}: {self.key}: {self.reason}"


def defects_of(error: ValidationError, form: type[BaseModel], text: str) -> list[Defect]:
    """Finds the line of each defect in a TOML file; lists the known keys if a key is unknown."""
    lines: dict[Place, int] = {}
    for number, place in places(text):
        lines.setdefault(place, number)
    found = []
    for item in error.errors():
        place = tuple(item["loc"])
        reason = item["msg"].removeprefix("Value error, ")
        if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            known = _fields_at(form, place[:-1])
            reason = f"unknown key{nearest(str(place[-1]), known)}".rstrip("?")
            reason += f" (known: {', '.join(sorted(known))})" if known else ""
        elif item["type"] not in ("value_error", "missing"):
            reason = f"{reason}, got {item['input']!r}"
        holders = (place[:size] for size in range(len(place), 0, -1))
        line = next((lines[holder] for holder in holders if holder in lines), None)
        found.append(Defect(".".join(map(str, place)), line, reason))
    return found


def _fields_at(form: type[BaseModel], place: Place) -> Sequence[str]:
    for part in place:
        field = form.model_fields.get(str(part))
        annotation = field.annotation if field else None
        candidates = [annotation, *get_args(annotation)]
        sections = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not sections:
            return ()
        form = sections[0]
    return tuple(form.model_fields)


def places(text: str) -> Iterator[tuple[int, Place]]:
    """Yields the line of each table and key, and its place; tomllib reports no positions."""
    counts: dict[Place, int] = {}
    table: Place = ()
    inside = False  # a multi-line string, whose lines may look like keys
    for number, line in enumerate(text.splitlines(), start=1):
        if not inside and (header := _HEADER.match(line)):
            table = _table(header[2].split("."), header[1] == "[[", counts)
            yield number, table
        elif not inside and (entry := _ENTRY.match(line)):
            key = entry[1].replace('"', "").replace("'", "")
            yield number, (*table, *key.split("."))
        inside ^= line.count('"""') % 2 == 1


def _table(names: Sequence[str], repeated: bool, counts: dict[Place, int]) -> Place:
    place: Place = ()
    for depth, name in enumerate(names, start=1):
        place = (*place, name)
        if repeated and depth == len(names):
            counts[place] = counts.get(place, -1) + 1
        if place in counts:
            place = (*place, counts[place])
    return place
