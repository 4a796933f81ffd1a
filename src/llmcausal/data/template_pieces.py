"""Takes a chat template apart into its own text and the slots that content fills."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from llmcausal.data.plain_text import ControlToken
from llmcausal.errors import ModelError

Role = Literal["system", "user", "assistant"]
Message = dict[str, str]
Render = Callable[[Sequence[Message], bool], str]
"""Renders messages, with or without the prompt that asks for an answer."""

_PADDING = "\n \t"


class TemplateRefusal(Exception):
    """The template raised an error on a conversation."""


@dataclass(frozen=True)
class Slot:
    """A place where content goes, and whether the template trims it there."""

    role: Role
    strip_left: bool
    strip_right: bool

    def fill(self, content: str) -> str:
        """Returns the content as the template writes it."""
        if self.strip_left:
            content = content.lstrip()
        return content.rstrip() if self.strip_right else content


Piece = str | Slot


@dataclass(frozen=True)
class TemplatePieces:
    """One turn of a chat template.

    Attributes:
        prompt: Everything the model reads before it answers.
        lead: Text between the prompt and the answer (Llama 2: a space).
        answer: The answer's slot.
        tail: Text after the answer.
        folds_system: The template knows no system role; it goes before the user's text.
    """

    prompt: tuple[Piece, ...]
    lead: str
    answer: Slot
    tail: str
    folds_system: bool


def conversation(system: str, user: str, *, folds_system: bool) -> list[Message]:
    """Returns the messages of a prompt; a template without system role gets one user message."""
    if folds_system:
        return [{"role": "user", "content": fold(system, user)}]
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def fold(system: str, user: str) -> str:
    """Puts the system text before the user's."""
    return f"{system}\n\n{user}" if system else user


def find_pieces(render: Render, template: str) -> TemplatePieces:
    """Renders sentinels in place of content and splits at them.

    Args:
        render: Renders a conversation; raises `TemplateRefusal` on an error in the template.
        template: The template's text, in which sentinels must not occur.

    Raises:
        ModelError: If the template fails, or leaves out or changes content.
    """
    unused = (chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in template)
    sentinels: dict[Role, str] = {
        "system": next(unused),
        "user": next(unused),
        "assistant": next(unused),
    }
    folds_system, refusal = False, ""
    try:
        rendered = _render(render, sentinels, folds=False, padding="", answer=False)
        folds_system = sentinels["system"] not in rendered
    except TemplateRefusal as error:
        folds_system, refusal = True, str(error)
    try:
        prompt, _ = _slots(render, sentinels, folds=folds_system, answer=False)
        full, slots = _slots(render, sentinels, folds=folds_system, answer=True)
    except TemplateRefusal as error:
        reasons = str(error) if str(error) == refusal or not refusal else f"{refusal}; {error}"
        raise ModelError(f"the chat template fails: {reasons}") from error
    if slots[-1:] != ["assistant"] or slots.count("assistant") != 1:
        raise ModelError("the chat template does not end with the assistant's message")
    *before, answer, tail = full
    assert isinstance(answer, Slot)
    assert isinstance(tail, str)
    # Thinking templates write another header for past answers than the one they generate from.
    shares_prompt = before[:-1] == prompt[:-1] and str(before[-1]).startswith(str(prompt[-1]))
    lead = str(before[-1])[len(str(prompt[-1])) :] if shares_prompt else ""
    return TemplatePieces(tuple(prompt), lead, answer, tail, folds_system)


def _render(
    render: Render, sentinels: dict[Role, str], *, folds: bool, padding: str, answer: bool
) -> str:
    padded = {role: f"{padding}{mark}{padding[::-1]}" for role, mark in sentinels.items()}
    # A folded prompt is one slot, "user".
    system = "" if folds else padded["system"]
    messages = conversation(system, padded["user"], folds_system=folds)
    if answer:
        messages.append({"role": "assistant", "content": padded["assistant"]})
    return render(messages, not answer)


def _slots(
    render: Render, sentinels: dict[Role, str], *, folds: bool, answer: bool
) -> tuple[list[Piece], list[Role]]:
    """Returns literal, slot, literal, ..., literal, and the slots' roles."""
    plain = _render(render, sentinels, folds=folds, padding="", answer=answer)
    literals, roles = _split(plain, sentinels)
    padded = _render(render, sentinels, folds=folds, padding=_PADDING, answer=answer)
    wide, wide_roles = _split(padded, sentinels)
    expected = {"user", *(["assistant"] if answer else []), *([] if folds else ["system"])}
    if missing := expected - set(roles):
        raise ModelError(f"the chat template leaves out the text of: {', '.join(sorted(missing))}")
    last = len(roles)
    trims = [
        _trims(wide_literal, literal, index > 0, index < last)
        for index, (wide_literal, literal) in enumerate(zip(wide, literals, strict=False))
    ]
    pieces: list[Piece] = [literals[0]]
    for role, before, after, literal in zip(roles, trims, trims[1:], literals[1:], strict=False):
        if before is None or after is None or wide_roles != roles:
            raise ModelError(f"the chat template changes the text of the {role} message")
        pieces += [Slot(role, strip_left=before[1], strip_right=after[0]), literal]
    return pieces, roles


def _trims(
    wide: str, literal: str, after_slot: bool, before_slot: bool
) -> tuple[bool, bool] | None:
    """Says whether the slot before a literal, and the one after, lost the padding beside it."""
    for right in (False, True) if after_slot else (True,):
        for left in (False, True) if before_slot else (True,):
            kept = ("" if right else _PADDING[::-1]) + literal + ("" if left else _PADDING)
            if wide == kept:
                return right, left
    return None


def _split(rendered: str, sentinels: dict[Role, str]) -> tuple[list[str], list[Role]]:
    role_of = {mark: role for role, mark in sentinels.items()}
    literals, roles = [""], list[Role]()
    for character in rendered:
        if character in role_of:
            roles.append(role_of[character])
            literals.append("")
        else:
            literals[-1] += character
    return literals, roles


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
