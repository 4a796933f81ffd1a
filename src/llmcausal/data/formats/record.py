"""Converts one record of a data file, which maps keys to values, to a triplet."""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args

import regex

from llmcausal.attacks.base import Difficulty, Position
from llmcausal.data.spans import Content, Span, SpanRole, Spans
from llmcausal.data.triplet import NOT_TEXT, AttackInfo, Check, CheckKind, Triplet
from llmcausal.errors import DataError
from llmcausal.registry import nearest, suggestion

ALIASES: Mapping[str, tuple[str, ...]] = {
    "id": (),
    "system": ("system_instruction",),
    "context": (),
    "benign": ("benign_input", "user_input_benign_1"),
    "benign_cf": ("benign_cf_input", "user_input_benign_2"),
    "injection": ("injection_input", "user_input_injection"),
    "response": ("benign_output", "expected_output_1"),
    "response_cf": ("expected_output_2",),
    "response_injection": ("injection_output", "expected_output_injection"),
    "obeying": (),
    "system_obeying": (),
    "response_obeying": (),
    "category": ("task_category",),
    "unfinished": (),
    "attack": ("attack_type",),
    "check": (),
    "spans": (),
}
"""Every key of a triplet in the order of a written file, and its other names."""
TEXTS = tuple(name for name in ALIASES if name not in ("unfinished", "attack", "check", "spans"))

REQUIRED = ("id", "system", "benign", "benign_cf", "injection")
ANSWERS = ("response", "response_cf", "response_injection", "response_obeying")
ATTACK_TEXTS = ("family", "goal", "witness")
ATTACK_CHOICES: Mapping[str, tuple[str, ...]] = {
    "position": get_args(Position),
    "difficulty": get_args(Difficulty),
    "novelty": ("seen", "new_phrasing", "new_family"),
}
"""Keys of an attack with a few possible values."""
ATTACK_KEYS = (*ATTACK_TEXTS, "check", *ATTACK_CHOICES)
SPAN_KEYS = ("text", "role", "trusted")
MAX_SPANS = 256
MAX_PATTERN_LENGTH = 1000
MAX_REPEATS = 100_000
"""The library expands counted repeats, so three nested repeats of 1000 would fill the memory."""
MAX_KEY_LENGTH = 64
"""A longer key is no misspelling, so it is not compared with the known keys."""
_CONTRADICTIONS: Mapping[tuple[str, bool], str] = {
    ("tool", True): "a tool's result is untrusted: leave trusted out, or give the role user",
    ("assistant", False): "an assistant's turn is the model's own: leave trusted out, or give the "
    "role user or tool to text from elsewhere",
}
JSON_TYPES = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "an object",
}


def parse_record(record: Mapping[str, Any]) -> tuple[Triplet | None, list[tuple[str, str]]]:
    """Returns the triplet, or None, and the defects as field and reason; ignores unknown keys."""
    parser = _Parser(record)
    texts = {name: parser.text(name) for name in TEXTS}
    attack, check, unfinished = parser.attack(), parser.check(), parser.unfinished()
    spans = parser.spans()
    if parser.defects:
        return None, parser.defects
    given: dict[str, Any] = {name: text for name, text in texts.items() if text is not None}
    return Triplet(**given, attack=attack, check=check, unfinished=unfinished, spans=spans), []


def parse_check(value: Any) -> tuple[Check | None, list[tuple[str, str]]]:
    """Reads a check object alone; returns what `parse_record` does."""
    parser = _Parser({})
    check = parser.read_check("check", value)
    return None if parser.defects else check, parser.defects


def read_content(value: object) -> Content:
    """Reads a text, or spans as in data files, each with its text; a DataError has every defect."""
    if isinstance(value, str):
        return value
    parser = _Parser({})
    spans = parser.read_spans(value)
    missing = [f"spans[{place}].text" for place, span in enumerate(spans) if span.text is None]
    parser.defects += [(field, "missing") for field in missing]
    if parser.defects:
        defects = [f"{field}: {reason}" for field, reason in parser.defects]
        raise DataError(defects, "the prompt cannot be used")
    return spans


class _Parser:
    def __init__(self, record: Mapping[str, Any]) -> None:
        self.record = record
        self.defects: list[tuple[str, str]] = []
        known = {name for field, aliases in ALIASES.items() for name in (field, *aliases)}
        self.unknown = [key for key in record if key not in known]

    def text(self, field: str) -> str | None:
        """Returns a text field, or None if it is absent or defective."""
        names = (field, *ALIASES[field])
        given = [name for name in names if self.record.get(name) is not None]
        if not given:
            self._absent(field, names)
            return None
        values = [self.record[name] for name in given]
        if any(value != values[0] for value in values):
            self.defects.append((field, f"{' and '.join(given)} give different values; keep one"))
            return None
        return self._sound_text(given[0], values[0], field in ("context", "category"))

    def attack(self) -> AttackInfo | None:
        """Returns the attack, from its object or from `attack_type`, which names its family."""
        value, family = self.record.get("attack"), self.record.get("attack_type")
        if family is not None:
            family = self._sound_text("attack_type", family)
        if value is None:
            if self.record.get("attack_type") is None:
                self._absent("attack", ("attack",))
            return AttackInfo(family) if family else None
        if not isinstance(value, dict):
            self.defects.append(("attack", f"must be an object, is {_type_name(value)}"))
            return None
        before = len(self.defects)
        self._misspelt("attack", [key for key in ATTACK_KEYS if key not in value], list(value))
        texts = {
            key: self._sound_text(f"attack.{key}", value[key], may_be_empty=key != "family")
            for key in ATTACK_TEXTS
            if value.get(key) is not None
        }
        if "family" not in texts:
            self.defects.append(("attack.family", "missing"))
        elif family is not None and texts["family"] not in (None, family):
            reason = "attack.family and attack_type give different values; keep one"
            self.defects.append(("attack", reason))
        given = {key: text for key, text in texts.items() if text}
        given |= {name: self._choice(name, value.get(name)) for name in ATTACK_CHOICES}
        check = self.read_check("attack.check", value.get("check"))
        if len(self.defects) > before:
            return None
        return AttackInfo(**given, check=check)

    def check(self) -> Check | None:
        value = self.record.get("check")
        if value is None:
            self._absent("check", ("check",))
        return self.read_check("check", value)

    def unfinished(self) -> tuple[str, ...]:
        value = self.record.get("unfinished")
        if value is None:
            return ()
        if not isinstance(value, list) or any(name not in ANSWERS for name in value):
            self.defects.append(("unfinished", f"must be a list of any of {', '.join(ANSWERS)}"))
            return ()
        return tuple(value)

    def spans(self) -> Spans:
        """Returns the spans, of which exactly one is the members' place; none if defective."""
        value = self.record.get("spans")
        if value is None:
            self._absent("spans", ("spans",))
            return ()
        spans = self.read_spans(value)
        if not spans:
            return ()
        places = [place for place, span in enumerate(spans) if span.text is None]
        if len(places) != 1:
            reason = "exactly one has no text: there the texts of benign and injection go"
            named = ", ".join(map(str, places)) or "none"
            self.defects.append(("spans", f"{reason}; without text: {named}"))
        elif spans[places[0]].trusted:
            reason = "must not be trusted: here the texts of benign and injection go"
            self.defects.append((f"spans[{places[0]}]", reason))
        return spans

    def read_spans(self, value: object) -> Spans:
        """Returns a list of spans, with or without text; none if any is defective."""
        if not isinstance(value, list | tuple) or not value:
            self.defects.append(("spans", f"must be a list of objects with {', '.join(SPAN_KEYS)}"))
            return ()
        if len(value) > MAX_SPANS:
            self.defects.append(("spans", f"{len(value)} spans are more than {MAX_SPANS}"))
            return ()
        before = len(self.defects)
        spans = tuple(self._span(f"spans[{place}]", each) for place, each in enumerate(value))
        if len(self.defects) == before and spans[-1].role == "assistant":
            reason = "is the last one; the model answers a user or a tool"
            self.defects.append((f"spans[{len(spans) - 1}].role", f"assistant: {reason}"))
        return () if len(self.defects) > before else spans

    def _span(self, field: str, value: object) -> Span:
        if not isinstance(value, Mapping):
            self.defects.append((field, f"must be an object, is {_type_name(value)}"))
            return Span()
        # A misspelt `trusted` would change what may be followed.
        if unknown := [key for key in value if key not in SPAN_KEYS]:
            shown = str(unknown[0])[:MAX_KEY_LENGTH]
            more = f", and {len(unknown) - 1} more" if unknown[1:] else ""
            reason = f"unknown key {shown!a}{more}{suggestion(shown, SPAN_KEYS)}"
            self.defects.append((field, reason))
        role, text, trusted = (value.get(key) for key in ("role", "text", "trusted"))
        role = "user" if role is None else role
        trusted = role == "assistant" if trusted is None else trusted
        if not isinstance(role, str) or role not in get_args(SpanRole):
            known, shown = get_args(SpanRole), str(role)[:MAX_KEY_LENGTH]
            hint = nearest(shown, known) or "; the system prompt is not a span"
            self.defects.append((f"{field}.role", f"must be one of {', '.join(known)}{hint}"))
            return Span()
        if not isinstance(trusted, bool):
            reason = f"must be true or false, is {_type_name(trusted)}"
            self.defects.append((f"{field}.trusted", reason))
        elif (role, trusted) in _CONTRADICTIONS:
            self.defects.append((f"{field}.trusted", _CONTRADICTIONS[role, trusted]))
        if text is not None:
            text = self._sound_text(f"{field}.text", text, may_be_empty=trusted is not True)
        return Span(text, cast("SpanRole", role), trusted is True)

    def _choice(self, key: str, value: Any) -> str:
        known = ATTACK_CHOICES[key]
        if value is None or value == "" or value in known:
            return value or ""
        if isinstance(value, str):
            shown = value[:MAX_KEY_LENGTH]
            reason = f"unknown value {shown!a}{suggestion(shown, known)}"
        else:
            reason = f"must be text, is {_type_name(value)}"
        self.defects.append((f"attack.{key}", reason))
        return ""

    def read_check(self, field: str, value: Any) -> Check | None:
        """Returns a check, or None if it is absent or defective."""
        kinds = get_args(CheckKind)
        if value is None:
            return None
        if not isinstance(value, dict):
            self.defects.append((field, f"must be an object, is {_type_name(value)}"))
            return None
        if len(value) != 1:
            reason = f"must have exactly one of {', '.join(kinds)}; has {len(value)} keys"
            self.defects.append((field, reason))
            return None
        [(kind, wanted)] = value.items()
        if kind not in kinds:
            shown = kind[:MAX_KEY_LENGTH]
            self.defects.append((field, f"unknown kind {shown!r}{suggestion(shown, kinds)}"))
            return None
        text = self._sound_text(f"{field}.{kind}", wanted)
        if text is not None and kind == "regex" and (reason := _bad_pattern(text)):
            self.defects.append((f"{field}.regex", reason))
        return None if text is None else Check(kind, text)

    def _sound_text(self, name: str, value: Any, may_be_empty: bool = False) -> str | None:
        """Returns `value` if it is usable text, else notes the defect."""
        if not isinstance(value, str):
            reason = f"must be text, is {_type_name(value)}"
        elif not value.strip() and not may_be_empty:
            reason = "empty"
        elif found := NOT_TEXT.search(value):
            code = f"lone surrogate \\u{ord(found[0]):04x}"
            what = "NUL character" if found[0] == "\0" else code
            reason = f"holds a {what} at position {found.start() + 1}"
        elif name == "id" and any(unicodedata.category(char) == "Cc" for char in value):
            reason = "holds a control character or line break"
        else:
            return value
        self.defects.append((name, reason))
        return None

    def _absent(self, field: str, names: Sequence[str]) -> None:
        if field not in REQUIRED:
            self._misspelt("", [field], self.unknown)
            return
        also = f" (also read: {', '.join(names[1:])})" if names[1:] else ""
        near = [key for name in names for key in _near(name, self.unknown, cutoff=0.75)]
        hint = f"; is {near[0]!r} a misspelling of it?" if near else ""
        given_null = ", is null" if any(name in self.record for name in names) else ""
        self.defects.append((field, f"missing{given_null}{also}{hint}"))

    def _misspelt(self, parent: str, absent: Sequence[str], present: Sequence[str]) -> None:
        """Reports a misspelt optional field; other programs' keys are allowed."""
        for name in absent:
            for key in _near(name, present, cutoff=0.9):
                if key != name:
                    where = f"{parent}.{key}" if parent else key
                    self.defects.append((where, f"unknown key; did you mean {name}?"))


def _near(name: str, keys: Sequence[str], cutoff: float) -> list[str]:
    short = [key for key in keys if len(key) <= MAX_KEY_LENGTH and key.isprintable()]
    return difflib.get_close_matches(name, short, n=1, cutoff=cutoff)


def _type_name(value: Any) -> str:
    return JSON_TYPES.get(type(value), type(value).__name__)


def _bad_pattern(pattern: str) -> str:
    """Returns why `pattern` cannot be used, or nothing."""
    if len(pattern) > MAX_PATTERN_LENGTH:
        return f"longer than {MAX_PATTERN_LENGTH} characters"
    # Only repeats of a group nest; any of the largest counts may be theirs.
    counts = sorted((int(count) for count in re.findall(r"\{(\d{1,9})", pattern)), reverse=True)
    nested = len(re.findall(r"[)}]\s*\{\d", pattern))
    if math.prod(counts[: nested + 1]) > MAX_REPEATS:
        return f"counted repeats multiply to more than {MAX_REPEATS}"
    try:
        with warnings.catch_warnings(action="ignore"):
            regex.compile(pattern, regex.IGNORECASE)
    except (regex.error, ValueError, RecursionError, OverflowError) as error:
        return f"not a regular expression: {ascii(str(error))[1:-1]}"
    return ""
