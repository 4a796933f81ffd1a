"""Reads the TOML data that ships, and reports a mistake in it by file, line and key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from importlib.resources.abc import Traversable
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from llmcausal.errors import DataError

_HEADER = re.compile(r"\s*(\[\[?)\s*([\w.\-]+)\s*\]")
_ENTRY = re.compile(r"\s*([\w\-]+|\"[^\"]*\")\s*=")


class DataFile(BaseModel):
    """The form of a file; a key that it does not name is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True)


T = TypeVar("T", bound=DataFile)


def read_table(file: Traversable, form: type[T]) -> T:
    """Reads a TOML file.

    Args:
        file: A path, or a file of the package.
        form: What it must hold.

    Raises:
        DataError: With every defect, each as `file:line: key: reason`.
    """
    text = file.read_text(encoding="utf-8")
    try:
        values = tomllib.loads(text)
    except ValueError as error:
        raise DataError([f"{file}: not valid TOML: {error}"]) from error
    try:
        return form.model_validate(values)
    except ValidationError as error:
        lines = {place: number for number, place in _places(text)}
        raise DataError([_defect(str(file), lines, item) for item in error.errors()]) from None


def _defect(file: str, lines: dict[tuple[str | int, ...], int], item: object) -> str:
    assert isinstance(item, dict)
    place = tuple(item["loc"])
    reason = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        reason = "unknown key"
    known = [place[:size] for size in range(len(place), 0, -1) if place[:size] in lines]
    line = f":{lines[known[0]]}" if known else ""
    return f"{file}{line}: {'.'.join(map(str, place))}: {reason}"


def _places(text: str) -> Iterator[tuple[int, tuple[str | int, ...]]]:
    """Yields the line of each table and key, the key as pydantic places it."""
    counts: dict[tuple[str | int, ...], int] = {}
    table: tuple[str | int, ...] = ()
    inside = False  # a string of several lines, which may hold what looks like a key
    for number, line in enumerate(text.splitlines(), start=1):
        if not inside and (header := _HEADER.match(line)):
            table = _table(header[2].split("."), header[1] == "[[", counts)
            yield number, table
        elif not inside and (entry := _ENTRY.match(line)):
            yield number, (*table, entry[1].strip('"'))
        inside ^= line.count('"""') % 2 == 1


def _table(
    names: Sequence[str], repeated: bool, counts: dict[tuple[str | int, ...], int]
) -> tuple[str | int, ...]:
    place: tuple[str | int, ...] = ()
    for depth, name in enumerate(names, start=1):
        place = (*place, name)
        if repeated and depth == len(names):
            counts[place] = counts.get(place, -1) + 1
        if place in counts:
            place = (*place, counts[place])
    return place
