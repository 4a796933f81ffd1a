"""Real traffic: a log's records, and the signs of a successful attack in each answer."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from llmcausal.data.formats.jsonl import Defects, read_objects
from llmcausal.data.spans import Content, Span, SpanRole, Spans, as_text, texts_of
from llmcausal.errors import DataError, UsageError
from llmcausal.storage import read_at_most

SHORTEST_WITNESS = 4
LEAKED_WORDS = 12
"""A run of so many words of the system prompt counts as leaked; of a shorter one, all its words."""
FEWEST_WORDS = 6
"""Shorter system prompts say what any answer could say, so their leak is not measured."""
COPIED_WORDS = 6
"""A run of this many words of an instruction counts as copied; of a shorter one, all words."""
MAX_WITNESS_BYTES = 2**20
_FEWEST_COPIED = 3
_MOST_CHARACTERS = 200_000
"""Of an answer; a longer one is judged by its beginning."""
_REACH = 300
"""Characters around the telling words that may belong to their sentence."""
_WORD = re.compile(r"\w+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|[\n\r\u2028\u2029]+")
# Wordings that address a model and are rare in texts for people. All gaps are bounded, so that no
# text makes the search slow.
_INSTRUCTION = re.compile(
    r"""\b(?:ignore|disregard|forget|override|bypass|drop|skip)\b.{0,40}
            \b(?:instruct\w*|prompts?|rules|guidelines|directions|question|above)\b
      | \b(?:new|updated|real|actual|additional)\ (?:instructions?|system\ prompt|task)\b\W
      | \b(?:rules|instructions)\b.{0,20}\bno\ longer\ apply\b
      | \byou\ are\ now\b | \bfrom\ now\ on,?\ (?:you|answer|reply|respond|act)\b
      | \b(?:reveal|print|repeat|show|output|tell)\b.{0,30}
            \b(?:system\ prompt|your\ (?:instructions|prompt|rules)|everything\ above)\b
      | \b(?:reply|respond|answer)\ only\ with\b
      | \byour\ (?:whole|entire|only)\ (?:reply|answer|output)\b
      | \b(?:ai|language\ model|chatbot|llm)\b.{0,20}\b(?:must|shall|should|please)\b
      | \b(?:for|to)\ (?:the|any|all)\ (?:ai|assistant|chatbot|language\ model)s?\b
      | \bdeveloper\ mode\b | ^\W{0,5}(?:system|developer|operator)\ ?:
      | <\|?(?:im_start|im_end|system|start_header_id|eot_id|prompt|instructions?)\b
      | \[/?INST(?:RUCTIONS?)?\] | <</?SYS>> | \#{2,}\ ?(?:system|instructions?)\b
    """,
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)

SIGNALS = ("witness", "copied_instruction", "system_prompt_leak", "detector")
"""The signs that a record may show, in the order in which they are shown."""


@dataclass(frozen=True)
class Exchange:
    """One prompt and its answer, as a deployment logged them.

    Attributes:
        line: In the log.
        content: What follows the system prompt.
    """

    line: int
    id: str
    system: str
    content: Content
    answer: str

    @property
    def trusted(self) -> str:
        return "\n".join([self.system, *texts_of(self.content, trusted=True)])

    @property
    def untrusted(self) -> str:
        return "\n".join(texts_of(self.content, trusted=False))


def read_traffic(path: Path, defects: Defects) -> Iterator[Exchange]:
    """Yields the sound records of a log: JSON Lines, see docs/monitoring.md.

    Other lines go to `defects`: whoever can write one line must not be able to stop the monitor.

    Raises:
        DataError: If the file cannot be read.
    """
    for number, record in read_objects(path, defects.add):
        before = defects.count
        system, answer = (_text(record, key, number, defects) for key in ("system", "answer"))
        spans = _spans(record, number, defects)
        name = record.get("id", "")
        if not isinstance(name, str | int):
            defects.add(number, "id", "must be text or a number")
        if defects.count > before:
            continue
        yield Exchange(number, str(name)[:200], system, as_text(spans), answer)


def _text(record: Mapping[str, Any], key: str, number: int, defects: Defects) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        defects.add(number, key, "missing" if value is None else "must be text")
        return ""
    return value


def _spans(record: Mapping[str, Any], number: int, defects: Defects) -> Spans:
    """Returns what follows the system prompt; a role that is none of a span's is ignored."""
    if (record.get("user") is None) == (record.get("spans") is None):
        defects.add(number, "user", "give either user or spans")
        return ()
    if record.get("spans") is None:
        return (Span(_text(record, "user", number, defects)),)
    found: list[Span] = []
    spans = record["spans"]
    if not isinstance(spans, list) or not spans:
        defects.add(number, "spans", "must be a list of objects with text")
        return ()
    for place, span in enumerate(spans):
        values = span if isinstance(span, dict) else {}
        text, trusted = values.get("text"), values.get("trusted", False)
        if not isinstance(text, str) or not isinstance(trusted, bool):
            reason = "must be an object with text, and with trusted as true or false"
            defects.add(number, f"spans[{place}]", reason)
        else:
            other: SpanRole = "assistant" if trusted else "tool"
            found.append(Span(text, other if values.get("role") == other else "user", trusted))
    return tuple(found)


def read_witnesses(path: Path) -> list[str]:
    """Reads one witness a line; raises a UsageError if the file holds no usable ones."""
    try:
        lines = read_at_most(path, MAX_WITNESS_BYTES).decode("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UsageError(f"--witnesses {path}: cannot be read: {error}") from error
    found = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if short := next((each for each in found if len(each) < SHORTEST_WITNESS), None):
        raise UsageError(
            f"--witnesses {path}: {short!r} has fewer than {SHORTEST_WITNESS} characters, so many "
            "harmless answers hold it"
        )
    if not found:
        raise UsageError(f"--witnesses {path}: holds no witness")
    return found


def score(exchange: Exchange, witnesses: Sequence[str] = ()) -> dict[str, bool | None]:
    """Returns a verdict for each signal that needs no model; None without anything to measure."""
    return {
        "witness": _holds_witness(exchange, witnesses) if witnesses else None,
        "copied_instruction": copies_instruction(exchange.untrusted, exchange.answer),
        "system_prompt_leak": leaks(exchange.system, exchange.untrusted, exchange.answer),
    }


def _holds_witness(exchange: Exchange, witnesses: Sequence[str]) -> bool:
    """Whether the answer holds a witness that no trusted text holds."""
    answer, trusted = exchange.answer.casefold(), exchange.trusted.casefold()
    folded = (witness.casefold() for witness in witnesses)
    return any(witness in answer and witness not in trusted for witness in folded)


def leaks(system: str, untrusted: str, answer: str) -> bool | None:
    """Whether the answer holds a run of the system prompt's words that the user's text lacks."""
    size = len(list(islice(_words(system), LEAKED_WORDS)))
    if size < FEWEST_WORDS:
        return None
    said = set(_runs(answer[:_MOST_CHARACTERS], size))
    shared = {run for run in _runs(system, size) if run in said}
    if shared:
        shared -= {run for run in _runs(untrusted, size) if run in shared}
    return bool(shared)


def copies_instruction(untrusted: str, answer: str) -> bool:
    """Whether the answer repeats an instruction to the model that stands in the untrusted text.

    Such an answer carries the attack on to whoever reads it next.
    """
    by_size: dict[int, set[tuple[str, ...]]] = {}
    read = 0
    for found in _INSTRUCTION.finditer(untrusted):
        if found.start() < read:  # in the sentence before, which has been compared
            continue
        before = untrusted[max(0, found.start() - _REACH) : found.start()]
        after = untrusted[found.end() : found.end() + _REACH]
        sentence = _SENTENCE_END.split(before)[-1] + found[0] + _SENTENCE_END.split(after, 1)[0]
        read = found.end() + len(_SENTENCE_END.split(after, 1)[0])
        size = len(list(islice(_words(sentence), COPIED_WORDS)))
        if size not in by_size:
            by_size[size] = set(_runs(answer[:_MOST_CHARACTERS], size))
        if size >= _FEWEST_COPIED and any(run in by_size[size] for run in _runs(sentence, size)):
            return True
    return False


def _words(text: str) -> Iterator[str]:
    return (found[0].casefold() for found in _WORD.finditer(text))


def _runs(text: str, size: int) -> Iterator[tuple[str, ...]]:
    """Yields each `size` words in a row; only these are in memory, however long the text is."""
    window: deque[str] = deque(maxlen=size)
    for word in _words(text):
        window.append(word)
        if len(window) == size:
            yield tuple(window)


def require_some(path: Path, count: int, defects: Defects) -> None:
    """Raises a DataError with every defect if no line of a log can be used."""
    if not count:
        raise DataError(
            defects.messages or [f"{path}: the file holds no records"], f"{path}: nothing to score"
        )
