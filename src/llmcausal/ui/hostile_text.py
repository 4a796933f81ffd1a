"""Untrusted text and values as HTML or SVG."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from itertools import groupby
from typing import Any

import regex
from markupsafe import Markup, escape

from llmcausal.ui.console import HIDDEN_CATEGORIES

_BLANK_LETTERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Invisible, though their categories are letters and marks."""
_TAGS = range(0xE0020, 0xE007F)
"""Invisible copies of ASCII, which can hide whole sentences."""
_MOST_CHARACTERS = 3000


def spelled(text: object) -> str:
    """Returns a value as text; spells out invisible characters and bidi controls."""
    return "".join(f"⟨{_hidden_name(c)}⟩" if _is_hidden(c) else c for c in str(text))


def tag(name: str, *children: str, **attributes: str | float | None) -> Markup:
    """Makes an element; escapes all text in it and its attributes, except `Markup`.

    In an attribute's name `_` becomes `-`, or nothing at its end. None leaves an attribute out.
    """
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), spelled(value))
        for key, value in attributes.items()
        if value is not None
    )
    inner = Markup("").join(
        child if isinstance(child, Markup) else escape(spelled(child)) for child in children
    )
    if not inner:
        return Markup("<{}{}/>").format(Markup(name), written)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), written, inner)


def shown(text: object, witness: object = "", goal: object = "", *, whole: bool = False) -> Markup:
    """Returns text as inert HTML.

    Invisible characters and bidi controls become labels, the witness is in `<mark>`, and the
    injected instruction in `<mark class="goal">`, both in any case. Without `whole`, long text
    loses its middle and says so.
    """
    written, sought = str(text).replace("\r\n", "\n"), (str(witness or ""), str(goal or ""))
    if whole or len(written) <= _MOST_CHARACTERS:
        return _marked(written, *sought)
    half = _MOST_CHARACTERS // 2
    cut = Markup('\n<span class="cut">{} characters are not shown</span>\n')
    cut = cut.format(f"{len(written) - 2 * half:,}")
    return cut.join(_marked(end, *sought) for end in (written[:half], written[-half:]))


Object = Mapping[str, Any]


def as_object(raw: object) -> Object:
    """Returns a mapping unchanged, and an empty one for anything else."""
    return raw if isinstance(raw, Mapping) else {}


def as_objects(raw: object) -> list[Object]:
    """Returns a list's mappings; none for anything else."""
    return [item for item in raw if isinstance(item, Mapping)] if isinstance(raw, list) else []


def as_texts(raw: object) -> list[str]:
    """Returns a list's items as texts; none for anything else."""
    return [str(item) for item in raw] if isinstance(raw, list) else []


def _marked(text: str, witness: str, goal: str) -> Markup:
    classes = bytearray(len(text))  # 1: part of the goal, 2: of the witness
    for value, sought in ((1, goal.strip()), (2, witness.strip())):
        # Full case folding, as in the witness check.
        pattern = regex.compile(regex.escape(sought), regex.IGNORECASE | regex.FULLCASE)
        for match in pattern.finditer(text) if sought else ():
            start, stop = match.span()
            classes[start:stop] = bytes([value]) * (stop - start)
    parts = []
    for value, run in groupby(range(len(text)), key=classes.__getitem__):
        places = list(run)
        inner = _visible(text[places[0] : places[-1] + 1])
        opening = {0: "", 1: '<mark class="goal">', 2: "<mark>"}[value]
        closing = "</mark>" if value else ""
        parts.append(Markup(opening) + inner + Markup(closing))
    return Markup("").join(parts)


def _visible(text: str) -> Markup:
    def label(char: str) -> str | None:
        if not _is_hidden(char):
            return None
        name = _hidden_name(char)
        return "tag" if name.startswith("tag ") else name

    parts = []
    for name, run in groupby(text, key=label):
        if name is None:
            parts.append(escape("".join(run)))
            continue
        characters = list(run)
        words = f"{name} \u00d7{len(characters)}" if len(characters) > 1 else name
        if name == "tag":
            words = "tags: " + "".join(_hidden_name(c).removeprefix("tag ") for c in characters)
        parts.append(Markup('<span class="hidden-char">{}</span>').format(words))
    return Markup("").join(parts)


def _is_hidden(char: str) -> bool:
    """Whether a character is invisible or reorders others."""
    category = unicodedata.category(char)
    return (
        (category in HIDDEN_CATEGORIES and char not in "\n\t")
        or category in ("Zl", "Zp")
        or (category == "Zs" and char != " ")
        or char in _BLANK_LETTERS
        or "\ufe00" <= char <= "\ufe0f"
        or "\U000e0100" <= char <= "\U000e01ef"
    )


def _hidden_name(char: str) -> str:
    """Returns an invisible character's code, or a tag's ASCII letter."""
    code = ord(char)
    return f"tag {chr(code - 0xE0000)}" if code in _TAGS else f"U+{code:04X}"
