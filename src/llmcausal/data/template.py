"""Chat prompts as token ids: only the template's own text yields control tokens."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from llmcausal.data.plain_text import ControlToken, MarkerGuard, PlainEncoder
from llmcausal.errors import DataError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Role = Literal["system", "user", "assistant"]
Message = dict[str, str]
Render = Callable[[Sequence[Message], bool], str]
"""Renders messages, with or without the prompt that asks for an answer."""


def broken_limit(
    work: Callable[[], object], *, seconds: float = 10.0, extra_bytes: int = 2**30
) -> str:
    """Runs `work` in a forked copy of this process; its exceptions do not matter.

    A template is a program from a stranger: it may loop without end or fill the memory. The trial
    runs only on Linux, since elsewhere a fork of a process with threads is not sound.

    Args:
        extra_bytes: Limit of the memory beyond this process's own.

    Returns:
        The broken limit in words, or nothing.
    """
    if sys.platform != "linux":
        return ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the copy only renders text and ends
        copy = os.fork()
    if not copy:
        _try(work, extra_bytes)
    until, pause = time.monotonic() + seconds, 0.001
    while time.monotonic() < until:
        ended, status = os.waitpid(copy, os.WNOHANG)
        if ended:
            return f"more than {extra_bytes // 2**20} MiB" if status else ""
        time.sleep(pause)
        pause = min(0.05, 1.5 * pause)
    os.kill(copy, signal.SIGKILL)
    os.waitpid(copy, 0)
    return f"more than {seconds:g} seconds"


def _try(work: Callable[[], object], extra_bytes: int) -> None:
    import resource

    code = 0
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + extra_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        work()
    except MemoryError:
        code = 1
    except BaseException:
        pass
    finally:
        os._exit(code)


MAX_TEMPLATE_BYTES = 2**20
_BOUNDED: set[str] = set()
"""Templates that kept the limits."""
# Some templates write today's date into the prompt (Llama 3.2, SmolLM3). Tokens must not depend on
# the day of training, so the function they call gives the date of Llama 3.1's default prompt.
_DATE = "d=26 m=07 Y=2024 y=24 b=Jul B=July a=Fri A=Friday H=00 M=00 S=00"
_FIXED_DATE = (
    "{%- macro strftime_now(format) -%}{{ format"
    + "".join(
        f" | replace('%{key}', '{value}')"
        for key, _, value in (code.partition("=") for code in _DATE.split())
    )
    + " }}{%- endmacro %}\n"
)
_PROBES = (
    ("Answer the question.", "What is 2 + 2?", "It is 4."),
    (
        "  Sum up: the text,\nin two lines. ",
        "\n- Grüße, 世界!  \n\n\tfoo_bar(x) = 10.5 \n ",
        " Yes\n",
    ),
)
_PADDING = "\n \t"


class TemplateRefusal(Exception):
    """The template raises an error on a conversation."""


@dataclass(frozen=True)
class Slot:
    """A place for content, and whether the template trims it there."""

    role: Role
    strip_left: bool
    strip_right: bool

    def fill(self, content: str) -> str:
        if self.strip_left:
            content = content.lstrip()
        return content.rstrip() if self.strip_right else content


TemplatePiece = str | Slot


@dataclass(frozen=True)
class TemplatePieces:
    """One turn of a chat template.

    `lead` is the text between the prompt and the answer (Llama 2: a space), `tail` the text after
    the answer.
    """

    prompt: tuple[TemplatePiece, ...]
    lead: str
    answer: Slot
    tail: str
    folds_system: bool


def conversation(system: str, user: str, *, folds_system: bool) -> list[Message]:
    """Returns a prompt's messages; a template without system role gets one user message."""
    if folds_system:
        return [{"role": "user", "content": fold(system, user)}]
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def fold(system: str, user: str) -> str:
    return f"{system}\n\n{user}" if system else user


def find_pieces(render: Render, template: str) -> TemplatePieces:
    """Renders characters that the template's text does not hold, and splits the result at them.

    Raises:
        ModelError: If the template fails, or leaves out or changes content.
    """
    unused = (chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in template)
    sentinels: dict[Role, str] = dict(zip(get_args(Role), unused, strict=False))
    if len(sentinels) < len(get_args(Role)):
        raise ModelError("the chat template uses every character for private use")
    folds_system, refusal = False, ""
    try:
        rendered = _rendered(render, sentinels, folds=False, padding="", answer=False)
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
    # The templates of thinking models give a past answer another header than the one to generate.
    shares_prompt = before[:-1] == prompt[:-1] and str(before[-1]).startswith(str(prompt[-1]))
    lead = str(before[-1])[len(str(prompt[-1])) :] if shares_prompt else ""
    return TemplatePieces(tuple(prompt), lead, answer, tail, folds_system)


def _rendered(
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
) -> tuple[list[TemplatePiece], list[Role]]:
    """Returns literal, slot, literal, ..., literal, and the slots' roles.

    A second rendering has white space around each content, which shows where it is trimmed.
    """
    plain = _rendered(render, sentinels, folds=folds, padding="", answer=answer)
    literals, roles = _split(plain, sentinels)
    padded = _rendered(render, sentinels, folds=folds, padding=_PADDING, answer=answer)
    wide, wide_roles = _split(padded, sentinels)
    expected = {"user", *(["assistant"] if answer else []), *([] if folds else ["system"])}
    if missing := expected - set(roles):
        raise ModelError(f"the chat template leaves out the text of: {', '.join(sorted(missing))}")
    last = len(roles)
    trims = [
        _trims(wide_literal, literal, index > 0, index < last)
        for index, (wide_literal, literal) in enumerate(zip(wide, literals, strict=False))
    ]
    pieces: list[TemplatePiece] = [literals[0]]
    for role, before, after, literal in zip(roles, trims, trims[1:], literals[1:], strict=False):
        if before is None or after is None or wide_roles != roles:
            raise ModelError(f"the chat template changes the text of the {role} message")
        pieces += [Slot(role, strip_left=before[1], strip_right=after[0]), literal]
    return pieces, roles


def _trims(
    wide: str, literal: str, after_slot: bool, before_slot: bool
) -> tuple[bool, bool] | None:
    """Returns whether the slots before and after a literal lost their padding, None if unclear.

    A slot's padding is part of the literals around it: the split is at its sentinel.
    """
    for right in (False, True) if after_slot else (True,):
        for left in (False, True) if before_slot else (True,):
            kept = ("" if right else _PADDING[::-1]) + literal + ("" if left else _PADDING)
            if wide == kept:
                return right, left
    return None


def _split(rendered: str, sentinels: dict[Role, str]) -> tuple[list[str], list[Role]]:
    role_of = {mark: role for role, mark in sentinels.items()}
    literal, *rest = re.split(f"([{''.join(role_of)}])", rendered)
    return [literal, *rest[1::2]], [role_of[mark] for mark in rest[::2]]


_BRACKETED = re.compile(r"<{1,2}[^\s<>]{1,40}>{1,2}|\[{1,2}[^\s\[\]]{1,40}\]{1,2}")
_LABEL = re.compile(r"#{2,}.*|.*:")
# The tokenizers library strips Unicode White_Space next to a token; Python's set differs.
_WHITE_SPACE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)


Preceding = Literal["nothing", "control", "text"]
"""What comes before a span: nothing, a control token, or separately encoded text. SentencePiece
tokenizers add a space accordingly."""


@dataclass(frozen=True)
class TextSpan:
    """Text and slots between two control tokens; encoded as one text, since merges cross its parts.

    `strips_left` and `strips_right`: the control token on that side swallows white space.
    """

    parts: tuple[TemplatePiece, ...]
    preceding: Preceding
    strips_left: bool
    strips_right: bool

    def fill(
        self, values: Mapping[str, str], find_cuts: Callable[[str], set[int]]
    ) -> tuple[str, frozenset[int]]:
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


TemplateItem = ControlToken | TextSpan


def _split_items(
    pieces: Iterable[TemplatePiece],
    controls: Mapping[str, ControlToken],
    before: TemplateItem | None = None,
) -> list[TemplateItem]:
    """Splits literals at control tokens, the longest first; `before` precedes the first piece."""
    longest_first = sorted(controls, key=len, reverse=True)
    pattern = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")
    items: list[TemplateItem] = []
    parts: list[TemplatePiece] = []

    def close(after: ControlToken | None) -> None:
        previous = items[-1] if items else before
        control = previous if isinstance(previous, ControlToken) else None
        preceding: Preceding = "text" if previous else "nothing"
        span = TextSpan(
            tuple(parts),
            "control" if control else preceding,
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


def _find_markers(items: Sequence[TemplateItem]) -> set[str]:
    """Finds plain text that marks turns, which content could forge.

    These are bracketed words (`[/INST]`, `<<SYS>>`) and labels (`USER:`, `### Response:`) anywhere,
    and every line after content without a control token between them. The word `user` after
    `<|im_start|>` is no marker: it means nothing without that token.
    """
    markers: set[str] = set()
    for span in (item for item in items if isinstance(item, TextSpan)):
        for index, part in enumerate(span.parts):
            if isinstance(part, Slot):
                continue
            markers.update(_BRACKETED.findall(part))
            unguarded = index > 0 or span.preceding != "control"
            lines = (line.strip() for line in part.splitlines())
            markers.update(line for line in lines if unguarded or _LABEL.fullmatch(line))
    return markers - {""}


class ChatTemplate:
    """Renders one turn of a chat template without ever reading content as control tokens.

    For text that repeats none of the template's markers, the ids equal those of the tokenizer's
    `apply_chat_template`. Text that spells a control token stays ordinary text. Text that repeats
    a plain-text marker (`[/INST]`) is encoded character by character (`MarkerGuard`). A template
    that writes the date gets a fixed date.

    Attributes:
        fingerprint: SHA-256 of the template and the tokenizer.
        control_ids: Ids that content never yields.
        stop_ids: Ids that end an answer, the end-of-turn token first.
        folds_system: The template has no system role; the system text precedes the user's.
        markers: The template's plain-text markers, guarded in content.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, template: str | None = None) -> None:
        """Takes the template apart and checks the result against the tokenizer's own rendering.

        Raises:
            ModelError: If there is no template, it fails, or cannot be rendered safely.
        """
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(
                f"{type(tokenizer).__name__} is a slow tokenizer; token-safe prompts need the fast "
                "one (a tokenizer.json with the model)"
            )
        self.tokenizer = tokenizer
        try:
            self.text = str(tokenizer.get_chat_template()) if template is None else template
        except ValueError as error:
            raise ModelError(
                "the tokenizer has no chat template: set `model.chat_template` in the profile to a "
                "Jinja file with the format that the model was trained on"
            ) from error
        self._dated = ("strftime_now" in self.text) * _FIXED_DATE + self.text
        self._plain = PlainEncoder(tokenizer)
        # Callers only read the cached lists.
        self._encode_text = lru_cache(maxsize=256)(self._plain.encode)
        self._refuse_unbounded()
        self.pieces = find_pieces(self._render, self._dated)
        self.folds_system = self.pieces.folds_system
        self._prompt = _split_items(self.pieces.prompt, self._plain.controls)
        self._answer = self._answer_items()
        self._guard = MarkerGuard(_find_markers([*self._prompt, *self._answer]), self._plain)
        self.markers = self._guard.markers
        items = (*self._prompt, *self._answer)
        used = [item.id for item in items if isinstance(item, ControlToken)]
        self.control_ids = self._plain.forbid(used)
        # An answer always ends with a control token.
        ends = dict.fromkeys([used[-1], tokenizer.eos_token_id])
        self.stop_ids = [end for end in ends if end is not None]
        self._prefix = self._choose_prefix()
        parts = [self.text, self._plain.definition, json.dumps(tokenizer.special_tokens_map)]
        self.fingerprint = hashlib.sha256("\0".join(parts).encode()).hexdigest()

    @property
    def spaces_after_controls(self) -> bool:
        """Whether text after a control token gets a space before it (some SentencePiece models)."""
        return self._prefix["control"]

    def render(self, system: str, user: str) -> str:
        """Returns the prompt as text for people; encoding this text would not be safe."""
        values = self._values(system, user)
        return "".join(
            piece.fill(values[piece.role]) if isinstance(piece, Slot) else piece
            for piece in self.pieces.prompt
        )

    def encode_prompt(self, system: str, user: str) -> list[int]:
        """Returns a prompt's ids; raises a DataError if a character is itself a control token."""
        return self._encode(self._prompt, self._values(system, user))

    def encode_response(self, response: str, *, ends: bool = True) -> list[int]:
        """Returns the ids of an answer, its end-of-turn token last.

        A token boundary separates prompt and answer, as in generation. An answer that was cut off
        does not end the turn (`ends`).

        Raises:
            DataError: If the answer is empty, or a character of it is itself a control token.
        """
        if not self.pieces.answer.fill(response).strip():
            advice = 'give one, or use the model\'s own answer with data.answers = "model"'
            raise DataError([f"response: empty: it teaches nothing; {advice}"])
        ids = self._encode(self._answer, {"assistant": response})
        return ids if ends else ids[:-1]

    def count_tokens(self, content: str) -> int:
        cuts = frozenset(self._guard.cuts(content))
        return len(self._encode_text(content, prefix=False, cuts=cuts))

    def _values(self, system: str, user: str) -> dict[str, str]:
        if self.folds_system:
            return {"user": fold(system, user)}
        return {"system": system, "user": user}

    def _encode(self, items: Sequence[TemplateItem], values: Mapping[str, str]) -> list[int]:
        ids: list[int] = []
        for item in items:
            if isinstance(item, ControlToken):
                ids.append(item.id)
            else:
                text, cuts = item.fill(values, self._guard.cuts)
                ids += self._encode_text(text, prefix=self._prefix[item.preceding], cuts=cuts)
        return ids

    def _answer_items(self) -> list[TemplateItem]:
        controls = self._plain.controls
        pieces = self.pieces
        ends = [i for i in _split_items([pieces.tail], controls) if isinstance(i, ControlToken)]
        if ends:
            tail = pieces.tail[: pieces.tail.index(ends[0].text) + len(ends[0].text)]
        elif self.tokenizer.eos_token in controls:
            tail = str(self.tokenizer.eos_token)
        else:
            raise ModelError(
                "the chat template ends the answer with no special token, and the tokenizer has no "
                "eos_token: a trained model would never stop. Set one of them (model.chat_template)"
            )
        return _split_items([pieces.lead, pieces.answer, tail], controls, self._prompt[-1])

    def _refuse_unbounded(self) -> None:
        """Tries the constructor's renderings within limits; no others are ever made."""
        if len(self.text) > MAX_TEMPLATE_BYTES:
            raise ModelError(f"the chat template is longer than {MAX_TEMPLATE_BYTES:,} characters")
        named = f"{self.tokenizer.special_tokens_map}\0{self.text}"
        if named in _BOUNDED:
            return

        def render_all() -> None:
            folds = find_pieces(self._render, self._dated).folds_system
            for system, user, answer in _PROBES:
                messages = conversation(system, user, folds_system=folds)
                self._render(messages, True)
                self._render([*messages, {"role": "assistant", "content": answer}], False)

        if limit := broken_limit(render_all):
            raise ModelError(
                f"the chat template takes {limit} to render a short conversation; use another one "
                "(model.chat_template)"
            )
        _BOUNDED.add(named)

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        text = str(self._reference(messages, add_generation_prompt, tokenize=False))
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise TemplateRefusal("it writes half of a character (a lone surrogate)")
        return text

    def _reference(self, messages: Sequence[Message], prompt: bool, *, tokenize: bool) -> Any:
        import jinja2

        try:
            return self.tokenizer.apply_chat_template(
                list(messages),
                chat_template=self._dated,
                tokenize=tokenize,
                add_generation_prompt=prompt,
                return_dict=False,
            )
        except jinja2.TemplateSyntaxError as error:
            line = error.lineno - (self._dated != self.text)
            raise ModelError(
                f"the chat template is not valid Jinja: line {line}: {error.message}"
            ) from error
        except MemoryError:
            raise
        except Exception as error:  # Jinja promises nothing about a stranger's template
            raise TemplateRefusal(str(error) or type(error).__name__) from error

    def _choose_prefix(self) -> dict[Preceding, bool]:
        """Finds where this tokenizer adds its prefix space: the choice that gives equal ids."""
        choices = (False, True) if self._plain.adds_prefix else (False,)
        failure = ""
        for at_start, after_control in product(choices, repeat=2):
            self._prefix = {"nothing": at_start, "control": after_control, "text": False}
            failure = self._difference()
            if not failure:
                return self._prefix
        raise ModelError(
            "this tokenizer's chat prompts cannot be reproduced token by token, so they cannot be "
            f"rendered safely: {failure}"
        )

    def _difference(self) -> str:
        """Compares probes with the reference; returns the first difference, or nothing."""
        for system, user, answer in _PROBES:
            messages = conversation(system, user, folds_system=self.folds_system)
            own = self.encode_prompt(system, user)
            wanted = self._reference(messages, True, tokenize=True)
            full = self._reference(
                [*messages, {"role": "assistant", "content": answer}], False, tokenize=True
            )
            # After a control token the reference also has a token boundary before the answer.
            if isinstance(self._prompt[-1], ControlToken) and full[: len(wanted)] == wanted:
                own = own + self.encode_response(answer)
                wanted = full[: len(own)]
            if own != wanted:
                pairs = zip_longest(own, wanted)
                at = next(index for index, (a, b) in enumerate(pairs) if a != b)
                around = slice(max(at - 2, 0), at + 6)
                mine, theirs = (
                    self.tokenizer.convert_ids_to_tokens(ids[around]) for ids in (own, wanted)
                )
                return f"at token {at} this gives {mine} and apply_chat_template {theirs}"
        return ""
