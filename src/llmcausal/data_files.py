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
_ENTRY = re.compile(r"\s*([\w.\-\"']+)\s*=")

Place = tuple[str | int, ...]
"""Where a value stands, as pydantic says it: keys, and indices of repeated tables."""


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
        lines = {place: number for number, place, _ in places(text)}
        raise DataError([_defect(str(file), lines, item) for item in error.errors()]) from None


def _defect(file: str, lines: dict[Place, int], item: object) -> str:
    assert isinstance(item, dict)
    place = tuple(item["loc"])
    reason = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        reason = "unknown key"
    known = [place[:size] for size in range(len(place), 0, -1) if place[:size] in lines]
    line = f":{lines[known[0]]}" if known else ""
    return f"{file}{line}: {'.'.join(map(str, place))}: {reason}"


def places(text: str) -> Iterator[tuple[int, Place, bool]]:
    """Yields the line of each table and key, its place, and whether it is a table.

    tomllib keeps no positions.
    """
    counts: dict[Place, int] = {}
    table: Place = ()
    inside = False  # a string of several lines, which may hold what looks like a key
    for number, line in enumerate(text.splitlines(), start=1):
        if not inside and (header := _HEADER.match(line)):
            table = _table(header[2].split("."), header[1] == "[[", counts)
            yield number, table, True
        elif not inside and (entry := _ENTRY.match(line)):
            key = entry[1].replace('"', "").replace("'", "")
            yield number, (*table, *key.split(".")), False
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
