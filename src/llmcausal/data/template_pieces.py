"""Takes a chat template apart into its own text and the slots that content fills."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

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
