"""Suite `file`: a triplet file of your own."""

from __future__ import annotations

from pathlib import Path

from llmcausal.config import DataSection
from llmcausal.data import formats
from llmcausal.data.triplet import Triplet
from llmcausal.errors import UsageError


def triplets(data: DataSection) -> list[Triplet]:
    """Reads the file named by `data.test`.

    Raises:
        UsageError: If `data.test` names no file.
        DataError: With every defect of the file.
    """
    if data.test == "builtin":
        raise UsageError("suite 'file' needs a triplet file: give --data FILE, or set data.test")
    return formats.read_triplets(Path(data.test).expanduser())
