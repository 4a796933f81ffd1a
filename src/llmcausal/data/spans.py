"""What follows a system prompt: one text, or several spans, each trusted or not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from llmcausal.errors import DataError

SpanRole = Literal["user", "assistant", "tool"]


@dataclass(frozen=True)
class Span:
    """A part of a conversation."""

    text: str | None = None  # None in a triplet, at the place for the text of each member
    role: SpanRole = "user"  # `assistant`: the model's own earlier answer; `tool`: a tool's result
    trusted: bool = False  # whether the model should follow instructions in the text

    @property
    def words(self) -> str:
        return self.text or ""


Spans = tuple[Span, ...]
Content = str | Spans
"""What follows the system prompt. A lone text is the user's turn, and untrusted."""


def filled(spans: Spans, text: str) -> Content:
    """Puts a member's text into its place; without spans, the text is all."""
    if not spans:
        return text
    return tuple(replace(span, text=text) if span.text is None else span for span in spans)


def emptied(content: Content) -> tuple[Spans, str] | None:
    """The inverse of `filled`, for the last untrusted text; None if there is no such text."""
    if isinstance(content, str):
        return (), content
    for place in reversed(range(len(content))):
        span = content[place]
        if not span.trusted:
            empty = replace(span, text=None)
            return (*content[:place], empty, *content[place + 1 :]), span.words
    return None


def texts_of(content: Content, *, trusted: bool) -> list[str]:
    spans = (Span(content),) if isinstance(content, str) else content
    return [span.words for span in spans if span.trusted is trusted]


def in_words(content: Content) -> str:
    """Returns the content for people; each of several spans with its role and its trust."""
    if isinstance(content, str):
        return content
    return "\n\n".join(
        f"[{span.role}, {'trusted' if span.trusted else 'untrusted'}]\n{span.words}"
        for span in content
    )


def as_messages(system: str, content: Content) -> list[dict[str, str]]:
    """Returns the messages of a prompt as clients write them: untrusted spans have the role `tool`.

    A lone text is the user's message.
    """
    messages, content = [{"role": "system", "content": system}], as_text(content)
    if isinstance(content, str):
        return [*messages, {"role": "user", "content": content}]
    return messages + [
        {"role": span.role if span.trusted else "tool", "content": span.words} for span in content
    ]


def as_text(content: Content) -> Content:
    """Returns a lone untrusted span of the user as its text; a DataError if there is no span."""
    if not content and not isinstance(content, str):
        raise DataError(["spans: empty; give at least one"], "the prompt cannot be used")
    if isinstance(content, str) or content[1:] or content[0].trusted or content[0].role != "user":
        return content
    return content[0].words
