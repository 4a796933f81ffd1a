"""Plain JSON or JSONL objects, with a map of columns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llmcausal.data.sources.columns import parse_row
from llmcausal.data.sources.example import LeftOut, SourceExample, SourceRequest, usable
from llmcausal.data.sources.records import read_records


def read(path: Path, request: SourceRequest, left_out: LeftOut) -> Iterator[SourceExample]:
    """Reads flat objects."""
    items = read_records(path, left_out)
    return usable(
        items, lambda item: parse_row(item, request.columns, request.unanswered), left_out
    )
