"""One way into the program for a file from a stranger."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Reader:
    """One way into the program.

    Attributes:
        name: For the table.
        seeds: Sound contents; the first must be read without complaint.
        read: Reads the file; may raise nothing but the program's own errors.
        file: Where the content is put, below the working folder.
    """

    name: str
    seeds: list[bytes]
    read: Callable[[Path], object]
    file: str
