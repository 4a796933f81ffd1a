"""Another harmless input for each example: another example, edited values, or other words."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import Literal

from llmcausal.data.sources.example import SourceExample, Unusable
from llmcausal.data_files import DataFile, read_table

CounterfactualKind = Literal["other_input", "slot_edit", "rephrase", "model"]

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_GREETED = re.compile(r"\W*(?:hi|hello|hey|dear|good (?:morning|day|evening))\b", re.IGNORECASE)
_LINKED = re.compile(
    r"(?:However|But|And|So|Then|Therefore|Also|This|That|These|Those|It|He|She|They|Its|His|Her|"
    r"Their|First|Second|Next|Finally|Instead|Afterwards|Later|Yet|Thus|Because)\b"
)


class _Words(DataFile):
    greetings: tuple[str, ...]
    closings: tuple[str, ...]
    contractions: dict[str, str]
    word_lists: tuple[tuple[str, ...], ...]

    @cached_property
    def list_of(self) -> Mapping[str, tuple[str, ...]]:
        return {word: words for words in self.word_lists for word in words}

    @cached_property
    def slot(self) -> re.Pattern[str]:
        return re.compile(rf"\d{{1,3}}(?:,\d{{3}})+|\d+|\b(?:{'|'.join(self.list_of)})\b")


@cache
def _words() -> _Words:
    return read_table(files(__package__).joinpath("counterfactual.toml"), _Words)


def rephrase(text: str, rng: random.Random) -> str:
    """Returns `text` with a greeting or closing, other contractions, or sentences in another order.

    The result always differs. Only independent sentences change places.
    """
    changed = text
    if rng.random() < 0.5:
        changed = _swap_contractions(changed)
    if rng.random() < 0.5:
        changed = _swap_sentences(changed, rng)
    ends = rng.choice(("greeting", "closing", "both", "none"))
    if _GREETED.match(text) or (ends == "none" and changed == text):
        ends = "closing"
    if ends in ("greeting", "both"):
        changed = f"{rng.choice(_words().greetings)}\n\n{changed}"
    if ends in ("closing", "both"):
        changed = f"{changed}\n\n{rng.choice(_words().closings)}"
    return changed


def _swap_contractions(text: str) -> str:
    """Contracts long forms; where a text has none, short forms become long ones."""
    for long, short in _words().contractions.items():
        pairs = (long, short) if re.search(rf"\b{long}\b", text) else (short, long)
        text = re.sub(rf"\b{re.escape(pairs[0])}\b", pairs[1], text)
    return text


def _swap_sentences(text: str, rng: random.Random) -> str:
    lines = text.split("\n")
    places = []
    for number, line in enumerate(lines):
        sentences = _SENTENCE_END.split(line)
        free = [len(words) > 3 and not _LINKED.match(words) for words in sentences]
        # The sentence after the pair must not refer back to it.
        free.append(True)
        places += [
            (number, index)
            for index in range(len(sentences) - 1)
            if all(free[index : index + 3]) and sentences[index + 1][-1] in ".!?"
        ]
    if not places:
        return text
    number, index = rng.choice(places)
    sentences = _SENTENCE_END.split(lines[number])
    sentences[index], sentences[index + 1] = sentences[index + 1], sentences[index]
    lines[number] = " ".join(sentences)
    return "\n".join(lines)


@dataclass(frozen=True)
class Counterpart:
    """An example's counterfactual; its response may be unknown."""

    document: str
    question: str
    response: str | None


class Counterfactuals:
    """Draws counterfactuals of one kind; `rewritings` are a model's documents, by example id."""

    def __init__(
        self,
        kind: CounterfactualKind,
        examples: Sequence[SourceExample],
        rewritings: Mapping[str, str] | None = None,
    ) -> None:
        self._kind = kind
        self._rewritings = rewritings or {}
        self._same_task: dict[tuple[str, str], list[SourceExample]] = {}
        self._same_system: dict[str, list[SourceExample]] = {}
        for example in examples:
            self._same_task.setdefault((example.system, example.question), []).append(example)
            self._same_system.setdefault(example.system, []).append(example)

    def draw(self, example: SourceExample, rng: random.Random) -> Counterpart:
        """Returns a counterfactual of `example`; raises `Unusable` if it has none of this kind."""
        if self._kind == "other_input":
            return self._other_input(example, rng)
        if self._kind == "slot_edit":
            edited = edit_slots((example.document, example.question), example.response, rng)
            if edited is None:
                reason = "it holds no number, date or first name to edit"
                raise Unusable(f"document: {reason} for --counterfactual slot_edit")
            (document, question), response = edited
            return Counterpart(document, question, response)
        if self._kind == "model":
            return Counterpart(self._rewritings[example.id], example.question, example.response)
        return Counterpart(rephrase(example.document, rng), example.question, example.response)

    def _other_input(self, example: SourceExample, rng: random.Random) -> Counterpart:
        for group in (
            self._same_task[example.system, example.question],
            self._same_system[example.system],
        ):
            others = [other for other in group if other.document != example.document]
            if others:
                other = rng.choice(others)
                known = other.response if other.context == example.context else None
                return Counterpart(other.document, other.question, known)
        raise Unusable(
            "system: no other input has the same system prompt; use --counterfactual rephrase"
        )


TWO_DIGITS = ((1, 12), (13, 28), (29, 59), (60, 99))
"""Months and hours, days of any month, minutes, others."""
YEARS = range(1950, 2051)


def edit_slots(
    texts: Sequence[str], response: str, rng: random.Random
) -> tuple[list[str], str | None] | None:
    """Replaces numbers, dates and first names, the same in all texts.

    Returns:
        The edited texts and response. The response is None if nothing in it is edited, or if it
        has a value that is in no text. None if the texts hold nothing to edit.
    """
    pattern = _words().slot
    found = [slot for text in texts for slot in pattern.findall(text)]
    if not found:
        return None
    replaced: dict[str, str] = {}
    for slot in found:
        key = slot.replace(",", "")
        if key not in replaced:
            replaced[key] = _other(key, set(replaced.values()), rng)

    def edit(match: re.Match[str]) -> str:
        slot = match[0]
        value = replaced[slot.replace(",", "")]
        return f"{int(value):,}" if "," in slot else value

    slots = {slot.replace(",", "") for slot in pattern.findall(response)}
    edited = pattern.sub(edit, response) if slots and slots <= replaced.keys() else None
    return [pattern.sub(edit, text) for text in texts], edited


def _other(slot: str, taken: set[str], rng: random.Random) -> str:
    """Returns another value of the same kind and width, unused if 20 draws find one."""
    for _ in range(20):
        value = _any_other(slot, rng)
        if value not in taken:
            break
    return value


def _any_other(slot: str, rng: random.Random) -> str:
    if words := _words().list_of.get(slot):
        return rng.choice([word for word in words if word != slot])
    low, high = _range(slot)
    values = range(low, high + 1)
    value = rng.choice(values)
    if value == int(slot):
        value = values[(value - low + 1) % len(values)]
    return f"{value:0{len(slot)}}"


def _range(slot: str) -> tuple[int, int]:
    """Returns the least and the greatest replacement; dates and times stay possible."""
    number, width = int(slot), len(slot)
    if width == 1:
        return 1, 9
    if width == 2:
        low, high = next(bounds for bounds in TWO_DIGITS if number <= bounds[1])
        return (max(10, low) if number >= 10 else low), high  # "12 lamps", never "04 lamps"
    if width == 4 and number in YEARS:
        return YEARS[0], YEARS[-1]
    return 10 ** (width - 1), 10**width - 1


INSTRUCTION = (
    "Rewrite the text of the user in other words. Keep every fact, name, date and number. "
    "Answer with the rewritten text alone."
)
"""System prompt for a rewriting; the user's message is the text."""
SHORTEST, LONGEST = 0.5, 2.0
"""Limits of the length relative to the original: beyond them content is missing or made up."""
_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")


def checked_rewriting(example: SourceExample, rewritten: str, *, ended: bool) -> str:
    """Returns a rewriting of an example's document if its numbers, answer and length are right.

    `ended` is whether the model itself ended it.

    Raises:
        Unusable: If it is cut off, empty or the same text, or differs in content.
    """
    original = example.document
    if not ended:
        raise Unusable("document: the model did not finish its rewriting")
    words, own_words = (re.findall(r"\w+", text.casefold()) for text in (rewritten, original))
    if words in ([], own_words):
        raise Unusable("document: the model gave no new wording")
    if not SHORTEST <= len(rewritten) / len(original) <= LONGEST:
        raise Unusable("document: the model's rewriting is far shorter or longer")
    if set(_NUMBER.findall(original)) != set(_NUMBER.findall(rewritten)):
        raise Unusable("document: the model's rewriting has other numbers")
    check = example.check
    if check is not None and check.passes(original) and not check.passes(rewritten):
        raise Unusable("document: the model's rewriting lost the answer")
    return rewritten
