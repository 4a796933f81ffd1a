"""Alpaca: objects of `instruction`, `input` and `output`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from llmcausal.data.sources.example import (
    Item,
    LeftOut,
    SourceExample,
    SourceRequest,
    Unusable,
    parsed,
    text_of,
)

SYSTEM = (
    "You are a helpful assistant. Do what the user's instruction says with the text that comes "
    "with it."
)


def read(path: Path, request: SourceRequest, left_out: LeftOut) -> Iterator[SourceExample]:
    """Reads JSON or JSONL; an example without `input` has no text to attack and is left out."""
    return parsed(path, partial(_parse, unanswered=request.unanswered), left_out)


def _parse(item: Item, unanswered: bool) -> SourceExample:
    where, number, record = item
    question = text_of(record, "instruction")
    response = text_of(record, "output", may_be_empty=unanswered)
    document = text_of(record, "input", may_be_empty=True)
    if document in ("", "<noinput>", "<noinput/>"):
        raise Unusable("input: empty, so there is no text that could carry an attack")
    return SourceExample(
        where=where,
        id=number,
        system=text_of(record, "system", may_be_empty=True) or SYSTEM,
        document=document,
        question=question,
        response=response,
        category="instruction",
    )
