"""Files of triplets, one module per format. Readers raise a DataError with all defects at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmcausal.errors import DataError
from llmcausal.registry import Table, nearest

if TYPE_CHECKING:
    from llmcausal.data.triplet import Triplet

FORMATS = Table(
    "data format",
    {
        "jsonl": "llmcausal.data.formats.jsonl:read_numbered",
    },
)


def read_triplets(path: Path) -> list[Triplet]:
    """Reads a file in the format that its suffix names; raises a DataError with every defect."""
    return [triplet for _, triplet in read_numbered(path)]


def read_numbered(path: Path) -> list[tuple[int, Triplet]]:
    """As `read_triplets`, each with its line number."""
    suffix = path.suffix.removeprefix(".").lower()
    if suffix not in FORMATS.entries:
        known = ", ".join(f".{name}" for name in FORMATS.entries)
        hint = nearest(suffix, FORMATS.entries)
        raise DataError([f"{path}: unknown data format {path.suffix!r}{hint} (known: {known})"])
    triplets: list[tuple[int, Triplet]] = FORMATS.load(suffix)(path)
    return triplets
