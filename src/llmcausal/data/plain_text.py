"""Encodes any text without producing a control token."""

from __future__ import annotations

import html
import json
import re
import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tokenizers import Encoding, Tokenizer

from llmcausal.errors import DataError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class ControlToken:
    """A token that only the chat template may produce."""

    id: int
    text: str
    strips_left: bool = False  # the tokenizer drops white space on that side of it
    strips_right: bool = False


class PlainEncoder:
    """A copy of a tokenizer's backend that reads control tokens as plain text.

    Every added token that is not mere white space counts as a control token, flagged special or
    not: models learn `<tool_call>` or `<think>` as structure too.

    Attributes:
        controls: Every control token by its text.
        unknown_id: The token that a character outside the vocabulary may yield. Its text
            (`<unk>`) never yields it.
        definition: The backend's definition without run-time settings, for fingerprints.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        state.update(truncation=None, padding=None)
        self.definition = json.dumps(state, sort_keys=True, ensure_ascii=False)
        self.controls = _control_tokens(tokenizer, state["added_tokens"])
        self.unknown_id = _unknown_id(tokenizer, state["model"])
        self._text_of = {token.id: token.text for token in self.controls.values()}
        state["post_processor"] = None
        for entry in state["added_tokens"]:
            entry["special"] = entry["content"] in self.controls
        bare = {**state, **{key: _without_prefix(state[key]) for key in _PREFIXING}}
        self._prefixing = _load(state)
        self._bare = self._prefixing if bare == state else _load(bare)

    @property
    def adds_prefix(self) -> bool:
        """Whether the tokenizer puts a space before text in some positions (SentencePiece)."""
        return self._prefixing is not self._bare

    def encode(self, text: str, *, prefix: bool, cuts: Collection[int] = ()) -> list[int]:
        """Encodes text; what would yield a control token is encoded character by character.

        `prefix` adds the tokenizer's own prefix space, if any. No token spans an offset in `cuts`.

        Raises:
            DataError: If a single character of the text is itself a control token.
        """
        marks = {cut for cut in cuts if 0 < cut < len(text)}
        # Text between new cuts may itself spell a control token, so this repeats until none does.
        while True:
            ids: list[int] = []
            forged: set[int] = set()
            edges = [0, *sorted(marks), len(text)]
            for begin, end in pairwise(edges):
                segment = text[begin:end]
                encoder = self._prefixing if prefix and begin == 0 else self._bare
                encoding = encoder.encode(segment, add_special_tokens=False)
                ids += encoding.ids
                if not self._text_of.keys().isdisjoint(encoding.ids):
                    forged.update(begin + cut for cut in self._cuts_in(segment, encoding))
            if forged <= marks:
                return ids
            marks |= forged

    def forbid(self, used: Collection[int]) -> frozenset[int]:
        """Returns every id that `encode` never yields from now on, given the template's ids."""
        if self.unknown_id in used:
            self.unknown_id = None
        return frozenset(self._text_of.keys() - {self.unknown_id})

    def normalize(self, text: str) -> str:
        normalizer = self._bare.normalizer
        return text if normalizer is None else str(normalizer.normalize_str(text))

    def _cuts_in(self, segment: str, encoding: Encoding) -> Iterable[int]:
        for token_id, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
            if token_id not in self._text_of:
                continue
            if token_id == self.unknown_id and not self._spells(token_id, segment[start:stop]):
                continue
            cuts = set(range(start + 1, stop)) or {start, stop} & set(range(1, len(segment)))
            if not cuts:
                raise DataError(
                    [
                        f"the character {segment!r} (U+{ord(segment[0]):04X}) is the control token "
                        f"{self._text_of[token_id]!r} to this tokenizer: remove it from the text"
                    ],
                    "text that cannot be encoded safely",
                )
            yield from cuts

    def _spells(self, token_id: int, text: str) -> bool:
        return len(text) > 1 and self._text_of.get(token_id, "\0") in self.normalize(text)


_PREFIXING = ("normalizer", "pre_tokenizer")


def _load(state: dict[str, Any]) -> Tokenizer:
    encoder = Tokenizer.from_str(json.dumps(state))
    encoder.encode_special_tokens = True  # read them as text; this flag is not part of the JSON
    for entry in state["added_tokens"]:
        if encoder.token_to_id(entry["content"]) != entry["id"]:
            raise ModelError(
                f"the tokenizer's file is inconsistent: {entry['content']!r} is listed with id "
                f"{entry['id']} but loads as {encoder.token_to_id(entry['content'])}"
            )
    return encoder


def _control_tokens(
    tokenizer: PreTrainedTokenizerFast, added: list[dict[str, Any]]
) -> dict[str, ControlToken]:
    found = {
        entry["content"]: ControlToken(
            entry["id"], entry["content"], entry["lstrip"], entry["rstrip"]
        )
        for entry in added
        # SentencePiece writes a space as U+2581, and Gemma lists runs of it as added tokens.
        if entry["content"] and not entry["content"].replace("\u2581", " ").isspace()
    }
    listed = {token.id for token in found.values()}
    for token_id in tokenizer.all_special_ids:
        if token_id is not None and token_id not in listed:
            text = str(tokenizer.convert_ids_to_tokens(token_id))
            found[text] = ControlToken(token_id, text)
    return found


def _unknown_id(tokenizer: PreTrainedTokenizerFast, model: dict[str, Any]) -> int | None:
    """Returns the id of unknown characters, unless that token also has a role in chats."""
    if model.get("type") == "Unigram":
        unknown = model.get("unk_id")
    else:
        token = model.get("unk_token")
        unknown = None if token is None else tokenizer.backend_tokenizer.token_to_id(token)
    roles = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.sep_token_id}
    if unknown in roles or (token_text := tokenizer.unk_token) is None:
        return None
    own_id = tokenizer.backend_tokenizer.token_to_id(str(token_text))
    return int(unknown) if unknown is not None and unknown == own_id else None


def _without_prefix(part: Any) -> Any:
    """Returns a normalizer or pre-tokenizer that adds no space before the text."""
    if not isinstance(part, dict):
        return part
    if part.get("type") == "Prepend":
        return None
    bare = dict(part)
    for key in ("normalizers", "pretokenizers"):
        if key in bare:
            bare[key] = [kept for child in bare[key] if (kept := _without_prefix(child))]
    if "prepend_scheme" in bare:
        bare["prepend_scheme"] = "never"
    if "add_prefix_space" in bare:
        bare["add_prefix_space"] = False
    return bare


# The pattern of html.unescape, also for an ampersand that is itself an entity (`&amp;#88;`).
_ENTITY = re.compile(
    r"&(?:amp;|#0*38;|#[xX]0*26;)*(?:#(?P<decimal>[0-9]+);?|#[xX](?P<hex>[0-9a-fA-F]+);?"
    r"|(?P<name>[^\t\n\f <&#;]{1,32};?))"
)
_LOOK = {
    "b": "\u0184\u0185\u0299\u0392\u0412\u0432\u042c\u044c\u13cf\u13f4\u15f7\ua4d0",
    "d": "\u0111\u0500\u0501\u0256\u0257\u13a0\u13e7\u1d05\ua4d3",
    "e": "\u0247\u0395\u03b5\u0415\u0435\u0454\u04bd\u13ac\u1d07\ua4f0",
    "g": "\u01e5\u0261\u0262\u050d\u13c0\u13f3\ua4d6",
    "i": "\u0131\u026a\u0399\u03b9\u0406\u0456\u04c0\u04cf\u13a5\ua4f2",
    "n": "\u0274\u014b\u0272\u039d\u03b7\u043f\u0578\u057c\ua4e0",
    "r": "\u024d\u0280\u0433\u13a1\u13d2\u1d26\ua4e3",
    "s": "\u0405\u0455\u054f\u13da\ua4e2\ua731",
    "t": "\u0167\u03a4\u03c4\u0422\u0442\u13a2\u1d1b\u2ca6\ua4d4",
    "u": "\u0289\u028b\u03c5\u054d\u057d\u1d1c\ua4f4",
    "x": "\u00d7\u03a7\u03c7\u0425\u0445\u1541\ua4eb",
}
"""Letters of other scripts that look like a letter of the fence and that NFKD keeps as they are."""
_FRAMED = (0x1F150, 0x1F170, 0x1F1E6)  # negative circled, negative squared, regional indicators
_LATIN = {ord(other): letter for letter, others in _LOOK.items() for other in others} | {
    start + place: chr(ord("a") + place) for start in _FRAMED for place in range(26)
}


def _lookalikes(content: str, letters: re.Pattern[str]) -> set[int]:
    """Returns the offsets inside every part of `content` that reads as `letters`."""
    if not letters.search(_bare(_ENTITY.sub(_character, content))):
        return set()
    spelled, at = "", 0
    sources: list[tuple[int, int]] = []  # for each letter, the part of `content` that it is from
    while at < len(content):
        entity = _ENTITY.match(content, at)
        end = entity.end() if entity else at + 1
        read = _bare(_character(entity) if entity else content[at])
        spelled += read
        sources += [(at, end)] * len(read)
        at = end
    cuts: set[int] = set()
    for match in letters.finditer(spelled):
        (start, _), (_, end) = sources[match.start()], sources[match.end() - 1]
        cuts.update(range(start + 1, end))
    return cuts


def _character(entity: re.Match[str]) -> str:
    """Returns what an HTML entity stands for; nothing for a number beyond Unicode."""
    if name := entity["name"]:
        return html.unescape(f"&{name}")
    number = (entity["decimal"] or entity["hex"]).lstrip("0")
    mark = "#x" if entity["hex"] else "#"
    return html.unescape(f"&{mark}{number};") if 0 < len(number) < 8 else ""


def _bare(text: str) -> str:
    """Returns the Latin letters that a text looks like, in lower case."""
    if not text.isascii():
        # Both cases: only one may have the look, and Cherokee's small letters fold to capitals.
        text = unicodedata.normalize("NFKD", text.translate(_LATIN)).translate(_LATIN)
        text = text.casefold().translate(_LATIN)
    return re.sub("[^a-z]", "", text.lower())


def _pattern_of(marker: str) -> str:
    """Returns a pattern for a marker; it finds a marker that is a word only as a whole word."""
    pattern = re.escape(marker)
    return rf"(?<!\w){pattern}(?!\w)" if re.fullmatch(r"\w+", marker) else pattern


class MarkerGuard:
    """Finds a template's plain-text markers (`[/INST]`, `USER:`) where content repeats them.

    Anyone can write a marker that is not one token. Content that repeats a marker is cut between
    its characters, so its tokens differ from the template's. This is weaker than a control token:
    the model must still learn the difference. Markers of one character are not guarded.

    `letters` is a pattern of letters, in lower case, whose look-alikes are cut as well in disguised
    content: in any case, with the listed letters of the same look, as HTML entities, with anything
    that is no such letter in between.
    """

    def __init__(self, markers: Iterable[str], encoder: PlainEncoder, letters: str = "") -> None:
        """Raises a ModelError if the template itself has to spell a marker in characters."""
        self._letters = re.compile(letters or "(?!)")
        self.markers = frozenset(marker for marker in markers if len(marker) > 1)
        self._encoder = encoder
        for marker in self.markers:
            whole = encoder.encode(marker, prefix=False)
            if whole == encoder.encode(marker, prefix=False, cuts=range(1, len(marker))):
                raise ModelError(
                    f"the chat template writes {marker!r} as plain text, and this tokenizer has no "
                    "token for any part of it: content could forge it. Use a template whose "
                    "markers are special tokens (model.chat_template)"
                )
        normalized = {encoder.normalize(marker) for marker in self.markers}
        spellings = sorted(self.markers | normalized, key=len, reverse=True)
        pattern = "|".join(map(_pattern_of, spellings)) or "(?!)"
        self._pattern = re.compile(f"(?=({pattern}))")  # lookahead: overlapping markers as well

    def cuts(self, content: str, *, disguised: bool = False) -> set[int]:
        """Returns the character offsets of the cuts in `content`; of look-alikes if `disguised`."""
        found = self._inner_offsets(content)
        normalized = self._encoder.normalize(content)
        if normalized != content and self._pattern.search(normalized):
            pieces = [self._encoder.normalize(character) for character in content]
            spelled = "".join(pieces)
            if spelled != normalized:  # it drops or joins characters; which ones is unknown
                return set(range(1, len(content)))
            # For each normalized character, the offset that it comes from.
            sources = [offset for offset, piece in enumerate(pieces) for _ in piece]
            found |= {sources[offset] for offset in self._inner_offsets(spelled)}
        return found | _lookalikes(content, self._letters) if disguised else found

    def _inner_offsets(self, text: str) -> set[int]:
        return {
            offset
            for match in self._pattern.finditer(text)
            for offset in range(match.start() + 1, match.end(1))
        }
