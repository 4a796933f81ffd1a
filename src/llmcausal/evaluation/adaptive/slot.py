"""A prompt with slots for texts that an attack may choose freely."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from llmcausal.data.builtin import MARKS
from llmcausal.data.template_pieces import Slot
from llmcausal.data.triplet import Triplet
from llmcausal.errors import DataError

if TYPE_CHECKING:
    from llmcausal.data.template import ChatTemplate


START = " ! ! ! ! ! ! ! ! ! ! ! !"
"""What a search begins with, in each slot."""
BARE, FENCE, SPELLED, WIDE = "none", "fence", "spelled", "wide"
"""Frames around the attack: nothing; the end and a new beginning of the marks that the text is
enclosed in; the template's turn markers as text, as they are spelled (content never becomes control
tokens) or in full-width characters."""
_WIDE = {ord(character): chr(ord(character) + 0xFEE0) for character in "<>|[]{}/"}


@dataclass(frozen=True)
class Placed:
    """A prompt with texts in its slots.

    Attributes:
        ids: Token ids of the whole prompt.
        spans: Where the tokens of each text are, [start, end).
    """

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]

    @property
    def places(self) -> list[int]:
        """Where the tokens of all texts are."""
        return [place for start, end in self.spans for place in range(start, end)]


@dataclass(frozen=True)
class PromptSlot:
    """An attacked prompt around free texts.

    The attacker writes text, not tokens: texts count only if they, put into the prompt and encoded
    as every prompt is, give back the very tokens that were searched for.

    Attributes:
        template: Encodes prompts.
        system: The trusted system text.
        fixed: User text before, between and after the free texts, one part more than these: a
            prefix and a suffix, or a suffix alone.
        frame: Name of what is around the attack.
    """

    template: ChatTemplate
    system: str
    fixed: tuple[str, ...]
    frame: str = BARE

    @property
    def start(self) -> tuple[str, ...]:
        """The texts that a search begins with."""
        return (START,) * (len(self.fixed) - 1)

    def takes(self, texts: Sequence[str]) -> bool:
        """Whether texts have tokens of their own that the texts give back."""
        try:
            return bool(self.texts_of(self.place(texts)))
        except (ValueError, DataError):
            return False

    def user_text(self, texts: Sequence[str]) -> str:
        """The user's text with texts in its slots."""
        return self.fixed[0] + "".join(
            text + after for text, after in zip(texts, self.fixed[1:], strict=True)
        )

    def encode(self, texts: Sequence[str]) -> list[int]:
        """Token ids of the whole prompt.

        Raises:
            DataError: If a character of the texts is itself a control token.
        """
        return self.template.encode_prompt(self.system, self.user_text(texts))

    def place(self, texts: Sequence[str]) -> Placed:
        """Finds the tokens of each text in the prompt.

        Raises:
            ValueError: If a text has no tokens of its own.
            DataError: As `encode`.
        """
        ids = self.encode(texts)
        spans: list[tuple[int, int]] = []
        for number, text in enumerate(texts):
            # Two other texts in a slot tell which tokens at both ends do not depend on it.
            others = [
                self.encode([*texts[:number], other, *texts[number + 1 :]]) for other in ("", " 7")
            ]
            start = min(_common(ids, other) for other in others)
            rest = [_common(ids[start:][::-1], other[start:][::-1]) for other in others]
            # A text may begin or end as its surroundings or the others do.
            near = product((start, start - 1, start + 1), (0, -1, 1))
            spans_near = ((first, len(ids) - min(rest) + more) for first, more in near)
            span = next((each for each in spans_near if self._decoded(ids, each) == text), None)
            if span is None or (spans and span[0] < spans[-1][1]):
                raise ValueError(f"{text!a} has no tokens of its own")
            spans.append(span)
        return Placed(tuple(ids), tuple(spans))

    def _decoded(self, ids: Sequence[int], span: tuple[int, int]) -> str:
        own = list(ids[slice(*span)])
        return str(self.template.tokenizer.decode(own, clean_up_tokenization_spaces=False))

    def texts_of(self, placed: Placed) -> tuple[str, ...]:
        """The free texts, or () where they would not give these tokens back."""
        texts = tuple(self._decoded(placed.ids, span) for span in placed.spans)
        if any(not text or "\ufffd" in text or "\0" in text for text in texts):
            return ()
        try:
            same = self.encode(texts) == [*placed.ids]
        except DataError:
            return ()
        return texts if same else ()


def slots_of(template: ChatTemplate, triplet: Triplet) -> list[PromptSlot]:
    """Returns a slot for each frame that a prompt has room for.

    The texts are right before and after the injected instruction, else after it, else (where it is
    encoded, or what follows would melt into the text) at the end.
    """
    found = []
    frames = {BARE: ("", ""), **_fence(triplet), **_turns(template)}
    for frame, (opening, closing) in frames.items():
        each = (
            PromptSlot(template, triplet.system, fixed, frame)
            for fixed in _ways(triplet, opening, closing)
        )
        slot = next((slot for slot in each if slot.takes(slot.start)), None)
        found += [slot] if slot else []
    return found


def _goal_at(triplet: Triplet) -> tuple[str, str, int]:
    """The attacked text, the instruction in it, and where that is; -1 where it is encoded."""
    text = triplet.user_text("injection")
    goal = triplet.attack.goal if triplet.attack else ""
    return text, goal, text.rfind(goal) if goal else -1


def _ways(triplet: Triplet, opening: str, closing: str) -> Iterator[tuple[str, ...]]:
    text, goal, at = _goal_at(triplet)
    if at >= 0:
        before, after = text[:at], closing + text[at + len(goal) :]
        # The space before a word is part of the word's token.
        yield before.rstrip(" ") + opening, f" {goal}", after
        yield before + opening + goal, after
    if not opening:
        yield text, ""


def _fence(triplet: Triplet) -> dict[str, tuple[str, str]]:
    """What ends the marks around the attack, and begins them again."""
    text, _, at = _goal_at(triplet)
    for opening, closing in MARKS:
        if at >= 0 and opening in text[:at] and closing in text[at:]:
            return {FENCE: (f"{closing}\n\n", f"\n\n{opening}")}
    return {}


def _turns(template: ChatTemplate) -> dict[str, tuple[str, str]]:
    """What opens and closes a turn of the user's, as text."""
    pieces = template.pieces.prompt
    slots = [number for number, piece in enumerate(pieces) if isinstance(piece, Slot)]
    parts = [
        "".join(piece for piece in pieces[start:end] if isinstance(piece, str))
        for start, end in zip([0, *slots], [*slots, len(pieces)], strict=True)
    ]
    closing = parts[-1]
    opening = closing + parts[0] if template.folds_system else parts[-2]
    spelled = {SPELLED: (opening, closing)}
    wide = (opening.translate(_WIDE), closing.translate(_WIDE))
    return spelled if wide == spelled[SPELLED] else {**spelled, WIDE: wide}


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    length = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        length += 1
    return length
