"""Text and values from outside: made readable, never trusted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

import regex
from markupsafe import Markup, escape

from llmcausal.ui.plots import hidden_name, is_hidden

_MOST_CHARACTERS = 3000


def shown(text: object, witness: object = "", goal: object = "", *, whole: bool = False) -> Markup:
    """Returns text as HTML that can only be read.

    Invisible characters and bidi controls become labels, the witness is in `<mark>`, and the
    injected instruction in `<mark class="goal">`. Over-long text loses its middle, and says so.

    Args:
        text: Text of any origin.
        witness: Text whose presence in an answer proves obedience; case does not count.
        goal: The injected instruction's own text.
        whole: Show all of it, however long.
    """
    written = str(text).replace("\r\n", "\n")
    if whole or len(written) <= _MOST_CHARACTERS:
        return _marked(written, str(witness or ""), str(goal or ""))
    half = _MOST_CHARACTERS // 2
    cut = Markup('<span class="cut">{} characters are not shown</span>').format(
        f"{len(written) - 2 * half:,}"
    )
    ends = (written[:half], written[-half:])
    return (
        Markup("\n{}\n")
        .format(cut)
        .join(_marked(end, str(witness or ""), str(goal or "")) for end in ends)
    )


def _marked(text: str, witness: str, goal: str) -> Markup:
    classes = bytearray(len(text))  # 1: part of the goal, 2: of the witness
    for value, sought in ((1, goal), (2, witness)):
        for start, stop in _places(text, sought.strip()):
            classes[start:stop] = bytes([value]) * (stop - start)
    parts = []
    for value, run in groupby(range(len(text)), key=classes.__getitem__):
        places = list(run)
        inner = _visible(text[places[0] : places[-1] + 1])
        opening = {0: "", 1: '<mark class="goal">', 2: "<mark>"}[value]
        closing = "</mark>" if value else ""
        parts.append(Markup(opening) + inner + Markup(closing))
    return Markup("").join(parts)


def _places(text: str, sought: str) -> Iterator[tuple[int, int]]:
    if not sought:
        return
    # Full case folding, as the check of the witness uses.
    pattern = regex.compile(regex.escape(sought), regex.IGNORECASE | regex.FULLCASE)
    for match in pattern.finditer(text):
        yield match.span()


def _visible(text: str) -> Markup:
    parts = []
    for name, run in groupby(text, key=_label):
        if name is None:
            parts.append(escape("".join(run)))
            continue
        characters = list(run)
        label = f"{name} \u00d7{len(characters)}" if len(characters) > 1 else name
        if name == "tag":
            label = "tags: " + "".join(hidden_name(c).removeprefix("tag ") for c in characters)
        parts.append(Markup('<span class="hidden-char">{}</span>').format(label))
    return Markup("").join(parts)


def _label(char: str) -> str | None:
    if not is_hidden(char):
        return None
    name = hidden_name(char)
    return "tag" if name.startswith("tag ") else name


Object = Mapping[str, Any]


def as_object(raw: object) -> Object:
    """Returns a mapping as it is, anything else as an empty one."""
    return raw if isinstance(raw, Mapping) else {}


def as_objects(raw: object) -> list[Object]:
    """Returns the mappings of a list; nothing of anything else."""
    return [item for item in raw if isinstance(item, Mapping)] if isinstance(raw, list) else []


def as_texts(raw: object) -> list[str]:
    """Returns the entries of a list as text; nothing of anything else."""
    return [str(item) for item in raw] if isinstance(raw, list) else []
