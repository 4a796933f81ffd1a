"""Tables of any kind: which column holds which field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from llmcausal.data.sources.example import Item, SourceExample, answer_check, text_of
from llmcausal.data.triplet import Check
from llmcausal.errors import UsageError
from llmcausal.registry import nearest

FIELDS = {
    "document": "the text to read, which could carry an attack (required)",
    "response": "the right answer (required unless --answers model)",
    "question": "what is asked about the text",
    "system": "the system prompt",
    "category": "the kind of task",
    "contains": "what a right answer must contain",
    "answer": "a short right answer, also used as the check",
    "id": "a name for the example",
}
"""What `--map` can name, and what it is."""
SYSTEM = "You are a helpful assistant. Do the task with the text that the user gives."


def parse_map(pairs: Iterable[str]) -> dict[str, str]:
    """Reads `field=column` pairs.

    Raises:
        UsageError: If one is no such pair, or names no field.
    """
    columns: dict[str, str] = {}
    for pair in pairs:
        name, separator, column = (part.strip() for part in pair.partition("="))
        if not separator or not column:
            raise UsageError(f"--map {pair}: write field=column, such as --map document=text")
        if name not in FIELDS:
            known = "; ".join(f"{name}: {meaning}" for name, meaning in FIELDS.items())
            raise UsageError(
                f"--map {pair}: unknown field {name!r}{nearest(name, FIELDS)} ({known})"
            )
        if name in columns:
            raise UsageError(f"--map {pair}: {name} is already {columns[name]}; keep one")
        columns[name] = column
    return columns


def parse_row(item: Item, columns: Mapping[str, str], unanswered: bool = False) -> SourceExample:
    """Makes an example of a row; a field that is not mapped is the column of its name.

    Args:
        item: The row.
        columns: Column of each field.
        unanswered: It may lack an answer.

    Raises:
        Unusable: If a required field is missing or empty.
    """
    where, number, record = item

    def optional(name: str) -> str:
        # A column that was asked for by name must be there.
        return text_of(record, columns.get(name, name), may_be_empty=name not in columns)

    document = text_of(record, columns.get("document", "document"))
    answer = optional("answer")
    response = answer if answer and "response" not in columns else ""
    if not response:
        column = columns.get("response", "response")
        response = text_of(record, column, may_be_empty=unanswered)
    contains = optional("contains")
    return SourceExample(
        where=where,
        id=optional("id") or number,
        system=optional("system") or SYSTEM,
        document=document,
        question=optional("question"),
        response=response,
        check=Check("contains", contains) if contains else answer_check([answer]),
        category=optional("category"),
    )
