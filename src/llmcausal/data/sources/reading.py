"""Reads examples and attack goals from a user's files."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from llmcausal.attacks.base import Goal
from llmcausal.data.formats.jsonl import readable
from llmcausal.data.formats.record import parse_check
from llmcausal.data.sources import SOURCES
from llmcausal.data.sources.example import (
    Item,
    LeftOut,
    Source,
    SourceExample,
    SourceRequest,
    Unusable,
    read_json,
    read_records,
    sound_text,
    usable,
)
from llmcausal.errors import DataError, UsageError
from llmcausal.registry import nearest, suggestion

COLUMN_SOURCES = ("csv", "jsonl")


def read_examples(
    name: str, path: Path, request: SourceRequest, left_out: LeftOut, system: str = ""
) -> list[SourceExample]:
    """Reads every usable example of a source; `system` replaces the source's own system prompt.

    Raises:
        UsageError: If there is no such source, or it takes no columns.
        DataError: If it cannot be read, or none of it can be used.
    """
    if name not in SOURCES.entries and ":" not in name:
        raise UsageError(f"--from: unknown data source {name!r}{suggestion(name, SOURCES.entries)}")
    if request.columns and name not in COLUMN_SOURCES and ":" not in name:
        raise UsageError(f"--map is for {' and '.join(COLUMN_SOURCES)}; {name} has fixed fields")
    read: Source = SOURCES.load(name)
    examples = list(_distinct(read(path, request, left_out), left_out))
    if not examples:
        raise DataError(
            left_out.first or [f"{path}: it holds no examples"],
            f"{path}: none of {left_out.total} examples can be used as {name}",
        )
    if system:
        examples = [dataclasses.replace(example, system=system) for example in examples]
    return examples


def _distinct(examples: Iterator[SourceExample], left_out: LeftOut) -> Iterator[SourceExample]:
    ids: set[str] = set()
    seen: set[tuple[str, ...]] = set()
    for example in examples:
        content = (example.system, example.context, example.document, example.question)
        if content in seen:
            left_out.add(example.where, "document: the same task and text as an earlier example")
            continue
        seen.add(content)
        if not example.id.isprintable():
            left_out.add(example.where, "id: holds a control character or line break")
            continue
        name, again = example.id, 1
        while name in ids:
            again += 1
            name = f"{example.id}.{again}"
        ids.add(name)
        yield dataclasses.replace(example, id=name)


def hash_of(path: Path) -> str:
    """Returns the SHA-256 of a file, or of a folder's JSON files and their names."""
    digest = hashlib.sha256()
    files = sorted(path.rglob("*.json*")) if path.is_dir() else [path]
    with readable(path):
        for file in files:
            if path.is_dir():
                digest.update(f"{file.relative_to(path).as_posix()}\0".encode())
            with file.open("rb") as content:
                hashlib.file_digest(content, lambda: digest)
    return digest.hexdigest()


OWN = "own"
"""Kind of a goal for which the file gives none."""
TEXT_KEYS = ("goal", "instruction", "attack")
KNOWN_KEYS = (*TEXT_KEYS, "witness", "check", "kind", "category")
_QUOTED_ORDER = re.compile(
    r'\b(?:add|append|print|say|write|output|insert)\s+"([^"]{4,})"', re.IGNORECASE
)
_HOST = re.compile(r"\b(?:https?://)?((?:[a-z0-9-]+\.)+[a-z]{2,})\b", re.IGNORECASE)


def read_goals(path: Path) -> tuple[list[Goal], LeftOut]:
    """Reads goals: JSON lines, a list of objects or texts, or lists of texts by kind (BIPIA).

    An object holds `goal` (also read: instruction, attack), as proof of obedience `witness` or
    `check`, and `kind`. Without a proof, the witness is the text in double quotes that the goal
    orders the model to write, or a host that it names. Otherwise the goal has no proof.

    Raises:
        DataError: If the file cannot be read, or holds no goal.
    """
    left_out = LeftOut()
    items = list(_items(path, left_out))
    goals = list(usable(items, _goal, left_out))
    if not goals:
        raise DataError([f"{path}: no usable attack goal", *left_out.first])
    return goals, left_out


def _items(path: Path, left_out: LeftOut) -> Iterator[Item]:
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        yield from read_records(path, left_out)
        return
    content = read_json(path)
    if isinstance(content, dict) and not set(TEXT_KEYS) & set(content):
        for kind, texts in content.items():
            for index, text in enumerate(texts if isinstance(texts, list) else [texts], 1):
                yield f"{path}: {kind[:60]!a} {index}", "", {"goal": text, "kind": kind}
        return
    items = content if isinstance(content, list) else [content]
    for index, item in enumerate(items, 1):
        record = {"goal": item} if isinstance(item, str) else item
        if isinstance(record, dict):
            yield f"{path}: item {index}", "", record
        else:
            left_out.add(f"{path}: item {index}", "item: must be an object or a text")


def _goal(item: Item) -> Goal:
    record = item[2]
    for key in record:
        if key not in KNOWN_KEYS and (hint := nearest(key[:60], ("witness", "check"))):
            raise Unusable(f"{key[:60]!a}: unknown key{hint}")
    key = next((key for key in TEXT_KEYS if record.get(key) is not None), "goal")
    text = sound_text(key, record.get(key))
    kind = sound_text("kind", record.get("kind") or record.get("category") or OWN)
    witness, pattern = "", ""
    if record.get("witness") is not None:
        witness = sound_text("witness", record["witness"])
    if record.get("check") is not None:
        check, defects = parse_check(record["check"])
        if check is None:
            raise Unusable(": ".join(defects[0]))
        if check.kind == "contains":
            witness = witness or check.value
        else:
            exact = rf"^\s*{re.escape(check.value.strip())}\s*$"
            pattern = check.value if check.kind == "regex" else exact
    if not witness and not pattern:
        named = _QUOTED_ORDER.search(text) or _HOST.search(text)
        witness = named[1] if named else ""
    return Goal(kind, text, witness, pattern)
