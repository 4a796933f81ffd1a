"""A prompt with slots for free texts, and the texts that a search begins with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from pydantic import BaseModel, ValidationError

from llmcausal.data.builtin import MARKS
from llmcausal.data.prefix_tree import common_length
from llmcausal.data.spans import Content, Spans, filled
from llmcausal.data.template import FENCE as TEMPLATE_FENCE
from llmcausal.data.template import ChatTemplate, Slot
from llmcausal.data.triplet import Triplet
from llmcausal.errors import DataError, UsageError

RESULTS = "results.json"
MAX_BYTES = 2**28

START = " ! ! ! ! ! ! ! ! ! ! ! !"
"""The first text of a search, in each slot."""
BARE, FENCE, SPELLED, WIDE = "none", "fence", "spelled", "wide"
"""Frames around the attack: nothing; the end and a new beginning of the marks that enclose the
text; the template's turn markers, spelled as text (content never becomes control tokens) or in
full-width characters."""
_WIDE = {ord(character): chr(ord(character) + 0xFEE0) for character in "<>|[]{}/"}


@dataclass(frozen=True)
class Placed:
    """A prompt with texts in its slots: its token ids, and the span [start, end) of each text."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]

    @property
    def places(self) -> list[int]:
        return [place for start, end in self.spans for place in range(start, end)]


@dataclass(frozen=True)
class PromptSlot:
    """An attacked prompt around free texts.

    The attacker writes text, not tokens: texts count only if the encoded prompt has exactly the
    search's tokens. `fixed` is the attacked text before, between and after the free texts, which
    are a prefix and a suffix, or a suffix alone. Of several spans it is the untrusted one of the
    injection; the others stay as they are.
    """

    template: ChatTemplate
    system: str
    fixed: tuple[str, ...]
    frame: str = BARE
    spans: Spans = ()

    @property
    def start(self) -> tuple[str, ...]:
        return (START,) * (len(self.fixed) - 1)

    def takes(self, texts: Sequence[str]) -> bool:
        """Whether texts have their own tokens, and these tokens decode to the texts."""
        try:
            return bool(self.texts_of(self.place(texts)))
        except (ValueError, DataError):
            return False

    def user_text(self, texts: Sequence[str]) -> str:
        return self.fixed[0] + "".join(
            text + after for text, after in zip(texts, self.fixed[1:], strict=True)
        )

    def encode(self, texts: Sequence[str]) -> list[int]:
        return self.template.encode_prompt(*self.prompt(texts))

    def prompt(self, texts: Sequence[str]) -> tuple[str, Content]:
        return self.system, filled(self.spans, self.user_text(texts))

    def place(self, texts: Sequence[str]) -> Placed:
        """Finds the tokens of each text in the prompt; raises a ValueError if one has none."""
        ids = self.encode(texts)
        spans: list[tuple[int, int]] = []
        for number, text in enumerate(texts):
            # Two other texts in the slot show which tokens at both ends do not depend on its text.
            others = [
                self.encode([*texts[:number], other, *texts[number + 1 :]]) for other in ("", " 7")
            ]
            start = min(common_length(ids, other) for other in others)
            rest = [common_length(ids[start:][::-1], other[start:][::-1]) for other in others]
            # A text may begin or end like its surroundings or the others.
            near = product((start, start - 1, start + 1), (0, -1, 1))
            spans_near = ((first, len(ids) - min(rest) + more) for first, more in near)
            span = next((each for each in spans_near if self._decoded(ids, each) == text), None)
            if span is None or (spans and span[0] < spans[-1][1]):
                raise ValueError(f"{text!a} has no tokens for itself")
            spans.append(span)
        return Placed(tuple(ids), tuple(spans))

    def _decoded(self, ids: Sequence[int], span: tuple[int, int]) -> str:
        own = list(ids[slice(*span)])
        return str(self.template.tokenizer.decode(own, clean_up_tokenization_spaces=False))

    def texts_of(self, placed: Placed) -> tuple[str, ...]:
        """Returns the free texts, or () if encoding them does not give these tokens."""
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

    The texts stand right before and after the injected instruction, else only after it. They stand
    at the end if the instruction is encoded, or if the next character would join the text.
    """
    found = []
    frames = {BARE: ("", ""), **_fence(template, triplet), **_turns(template)}
    for frame, (opening, closing) in frames.items():
        for fixed in _ways(triplet, opening, closing):
            slot = PromptSlot(template, triplet.system, fixed, frame, triplet.spans)
            if slot.takes(slot.start):
                found.append(slot)
                break
    return found


def _goal_at(triplet: Triplet) -> tuple[str, str, int]:
    """Returns the attacked text, the instruction and its place in the text; -1 if it is encoded."""
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


def _fence(template: ChatTemplate, triplet: Triplet) -> dict[str, tuple[str, str]]:
    text, _, at = _goal_at(triplet)
    if triplet.spans and not template.tool_role:
        opening, closing = TEMPLATE_FENCE
        return {FENCE: (f"{closing}\n\n", f"\n\n{opening}")}
    for opening, closing in MARKS:
        if at >= 0 and opening in text[:at] and closing in text[at:]:
            return {FENCE: (f"{closing}\n\n", f"\n\n{opening}")}
    return {}


def _turns(template: ChatTemplate) -> dict[str, tuple[str, str]]:
    pieces = template.pieces.prompt
    slots = [number for number, piece in enumerate(pieces) if isinstance(piece, Slot)]
    parts = [
        "".join(piece for piece in pieces[start:end] if isinstance(piece, str))
        for start, end in zip([0, *slots], [*slots, len(pieces)], strict=True)
    ]
    closing = parts[-1]
    opening = closing + parts[0] if template.folds_system else parts[-2]
    spelled = (opening, closing)
    wide = (opening.translate(_WIDE), closing.translate(_WIDE))
    return {SPELLED: spelled} if wide == spelled else {SPELLED: spelled, WIDE: wide}


@dataclass(frozen=True)
class Opening:
    """A search's first texts, in their slot."""

    slot: PromptSlot
    texts: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the texts have no more tokens than a plain opening."""
        halves_of_characters = any("\ud800" <= each <= "\udfff" for each in "".join(self.texts))
        if halves_of_characters or not self.slot.takes(self.texts):
            return False
        plain = self.slot.place(self.slot.start).spans
        spans = zip(self.slot.place(self.texts).spans, plain, strict=True)
        return all(end - start <= last - first for (start, end), (first, last) in spans)


class _Example(BaseModel):
    id: str
    suffix: str
    prefix: str = START
    frame: str = BARE


class _Side(BaseModel):
    examples: list[_Example]


class _Adaptive(BaseModel):
    tuned: _Side
    base: _Side | None = None


class _Result(BaseModel):
    adaptive: _Adaptive


@dataclass(frozen=True)
class Earlier:
    """Earlier finds: prompt id, frame, prefix and suffix. Finds on the tuned model come first."""

    finds: tuple[tuple[str, str, str, str], ...] = ()

    @classmethod
    def read(cls, path: Path) -> Earlier:
        """Reads a result's file or folder; raises a UsageError if it holds no text."""
        file = path / RESULTS if path.is_dir() else path

        def unusable(reason: str | None) -> UsageError:
            advice = "give the results.json of an `eval --adaptive`, or its folder"
            return UsageError(f"--adaptive-from {file}: {reason}; {advice}")

        try:
            if file.stat().st_size > MAX_BYTES:
                raise unusable(f"larger than {MAX_BYTES:,} bytes")
            result = _Result.model_validate(json.loads(file.read_bytes()))
        except OSError as error:
            raise unusable(error.strerror) from error
        except ValidationError as error:
            first = error.errors()[0]
            raise unusable(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        except (ValueError, RecursionError) as error:
            raise unusable("not JSON") from error
        sides = [side for side in (result.adaptive.tuned, result.adaptive.base) if side]
        finds = [(e.id, e.frame, e.prefix, e.suffix) for side in sides for e in side.examples]
        if not finds:
            raise unusable("no text was found there")
        return cls(tuple(dict.fromkeys(finds)))

    def openings(self, slots: Sequence[PromptSlot], prompt: str, most: int) -> list[Opening]:
        """Returns up to `most` openings of a search: a plain one for each slot, then earlier finds.

        Finds on the same prompt come first. An opening with more tokens than a plain one is left
        out, so no search has more room than another.
        """
        plain = {slot.frame: Opening(slot, slot.start) for slot in slots}
        found = dict.fromkeys(plain.values())
        for _, frame, prefix, suffix in sorted(self.finds, key=lambda find: find[0] != prompt):
            if len(found) >= most:
                break
            if frame not in plain:
                continue
            slot = plain[frame].slot
            opening = Opening(slot, (prefix or START, suffix)[-len(slot.start) :])
            if opening.fits:
                found[opening] = None
        return list(found)[:most]
