"""A template's pieces as control tokens and the plain spans between them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from llmcausal.data.plain_text import ControlToken
from llmcausal.data.template_pieces import Piece, Slot

_BRACKETED = re.compile(r"<{1,2}[^\s<>]{1,40}>{1,2}|\[{1,2}[^\s\[\]]{1,40}\]{1,2}")
_LABEL = re.compile(r"#{2,}.*|.*:")
# What the tokenizers library strips beside a token: Unicode White_Space, where Python's differs.
_WHITE_SPACE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)


class Position(Enum):
    """What comes before a span; SentencePiece tokenizers add a space accordingly."""

    START = "start of the text"
    CONTROL = "a control token"
    INSIDE = "plain text that is encoded apart"


@dataclass(frozen=True)
class TextSpan:
    """Text and slots between two control tokens; encoded in one go, as merges cross its parts.

    Attributes:
        parts: Literals and slots; no two literals are neighbours.
        position: What comes before it.
        strips_left: The control token before it swallows white space.
        strips_right: The control token after it does.
    """

    parts: tuple[Piece, ...]
    position: Position
    strips_left: bool
    strips_right: bool

    def fill(
        self, values: Mapping[str, str], find_cuts: Callable[[str], set[int]]
    ) -> tuple[str, frozenset[int]]:
        """Returns the span's text with content in its slots, and where it must be cut.

        Args:
            values: Content by role.
            find_cuts: Returns the offsets at which a content must be cut.
        """
        text, cuts = "", set[int]()
        for part in self.parts:
            content = part.fill(values[part.role]) if isinstance(part, Slot) else part
            if isinstance(part, Slot):
                cuts.update(len(text) + cut for cut in find_cuts(content))
            text += content
        if self.strips_right:
            text = text.rstrip(_WHITE_SPACE)
        if self.strips_left:
            removed = len(text) - len(text.lstrip(_WHITE_SPACE))
            text, cuts = text[removed:], {cut - removed for cut in cuts}
        return text, frozenset(cuts)


Item = ControlToken | TextSpan


def split_items(
    pieces: Iterable[Piece], controls: Mapping[str, ControlToken], before: Item | None = None
) -> list[Item]:
    """Splits literals at control tokens, the longest first, and gathers what is between.

    Args:
        pieces: Literals and slots in order.
        controls: Control tokens by their text.
        before: What was rendered before the first piece; none at the start.
    """
    longest_first = sorted(controls, key=len, reverse=True)
    pattern = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")
    items: list[Item] = []
    parts: list[Piece] = []

    def close(after: ControlToken | None) -> None:
        previous = items[-1] if items else before
        control = previous if isinstance(previous, ControlToken) else None
        position = Position.INSIDE if previous else Position.START
        span = TextSpan(
            tuple(parts),
            Position.CONTROL if control else position,
            strips_left=control is not None and control.strips_right,
            strips_right=after is not None and after.strips_left,
        )
        parts.clear()
        slots = any(isinstance(part, Slot) for part in span.parts)
        if slots or span.fill({}, lambda _: set())[0]:
            items.append(span)

    for piece in pieces:
        for part in [piece] if isinstance(piece, Slot) else pattern.split(piece):
            if isinstance(part, str) and part in controls:
                close(controls[part])
                items.append(controls[part])
            elif part:
                parts.append(part)
    close(None)
    return items


def find_markers(items: Sequence[Item]) -> set[str]:
    """Finds plain text by which the template marks turns, and which content could therefore forge.

    These are bracketed words (`[/INST]`, `<<SYS>>`) and labels (`USER:`, `### Response:`) anywhere,
    and every line that comes after content with no control token between. The word `user` that
    follows `<|im_start|>` is none of these: it means nothing without that token.
    """
    markers: set[str] = set()
    for item in items:
        for index, part in enumerate(item.parts if isinstance(item, TextSpan) else ()):
            if isinstance(part, Slot) or not isinstance(item, TextSpan):
                continue
            markers.update(_BRACKETED.findall(part))
            unguarded = index > 0 or item.position is not Position.CONTROL
            lines = (line.strip() for line in part.splitlines())
            markers.update(line for line in lines if unguarded or _LABEL.fullmatch(line))
    return markers - {""}
