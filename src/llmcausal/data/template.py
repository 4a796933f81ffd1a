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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from itertools import product, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

from llmcausal.data.plain_text import ControlToken, MarkerGuard, PlainEncoder
from llmcausal.data.spans import Content, Span, SpanRole, Spans, as_messages, as_text
from llmcausal.errors import DataError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

T = TypeVar("T")
Role = Literal["system", "user", "assistant"]
Edge = Literal["kept", "stripped", "json"]
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
    {
        "system": "Answer the question.",
        "user": "What is 2 + 2?",
        "assistant": "It is 4.",
        "tool": "From Ann: lunch is at noon.",
    },
    {
        "system": "  Sum up: the text,\nin two lines. ",
        "user": "\n- Grüße, 世界!  \n\n\tfoo_bar(x) = 10.5 \n ",
        "assistant": " Yes\n",
        "tool": ' "No", he said: \\n is <b>not</b> a line.\n\n- 世界 ',
    },
)
_PADDING = "\n \t"
_EDGES: Mapping[Edge, tuple[str, str]] = {
    "kept": (_PADDING, _PADDING[::-1]),
    "stripped": ("", ""),
    "json": (r"\n \t", r"\t \n"),
}
"""What a template makes of the white space before and after content."""

FENCE = ("[BEGIN UNTRUSTED TEXT]\n", "\n[END UNTRUSTED TEXT]")
"""Around untrusted text in a user's turn, if the template has no role for such text."""
_FENCE_LETTERS = "(?:begin|end)?untrustedtext"
_TOOL_ROLES = ("tool", "ipython")
_ORDERS: tuple[tuple[SpanRole, ...], ...] = (
    ("tool",),
    ("tool", "tool"),
    ("user", "tool"),
    ("tool", "user"),
    ("user", "tool", "tool", "assistant", "user", "tool"),
)
"""Orders of spans that a template with a role for untrusted text must render."""
_OTHER_ORDERS: tuple[tuple[Role, ...], ...] = (
    ("system", "user", "user"),
    ("system", "user", "system"),
    ("system", "user", "assistant", "user"),
    ("system", "user", "assistant", "system"),
    ("system", "user", "assistant", "assistant"),
)
"""Orders that show how a template marks the other roles, at a tool's places too; it may refuse
some."""
_WRAP_BEGIN = "{%- set llmcausal = namespace(turns=[]) %}\n"
_WRAP_END = "{%- set messages = llmcausal.turns %}\n"
_WRAP = """\
{%- set llmcausal = namespace(turns=[]) %}
{%- for message in messages %}
{%- set role = {'tool': 'CHANNEL', 'system': 'SYSTEM'}.get(message['role'], message['role']) %}
{%- set text = TEXT if message['role'] == 'tool' else message['content'] %}
{%- if message['role'] == 'system' and role == 'user' and not text | trim %}
{%- elif llmcausal.turns and llmcausal.turns[-1]['role'] == role and role != 'TOOL' %}
{%- set text = llmcausal.turns[-1]['content'] + '\\n\\n' + text %}
{%- set llmcausal.turns = llmcausal.turns[:-1] + [{'role': role, 'content': text}] %}
{%- elif message['role'] == 'tool' or message['role'] != role %}
{%- set llmcausal.turns = llmcausal.turns + [{'role': role, 'content': text}] %}
{%- else %}
{%- set llmcausal.turns = llmcausal.turns + [message] %}
{%- endif %}
{%- endfor %}
{%- set messages = llmcausal.turns %}
"""
"""What `exported` puts before a template: the same in Jinja as `ChatTemplate._messages`."""


class TemplateRefusal(Exception):
    """The template raises an error on a conversation."""


@dataclass(frozen=True)
class Slot:
    """A place for content, by its name, and what the template does with the content's edges.

    The name is a role, or the number of a span. `json` at both edges: the template writes the
    content as a JSON string, as Llama 3.1 does with a tool's result.
    """

    name: str
    left: Edge
    right: Edge

    def fill(self, content: str) -> str:
        if self.left == "json":
            return json.dumps(content, ensure_ascii=False)[1:-1]
        if self.left == "stripped":
            content = content.lstrip()
        return content.rstrip() if self.right == "stripped" else content


TemplatePiece = str | Slot


@dataclass(frozen=True)
class TemplatePieces:
    """One turn of a chat template."""

    prompt: tuple[TemplatePiece, ...]
    lead: str  # between the prompt and the answer (Llama 2: a space)
    answer: Slot
    tail: str  # after the answer
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
    sentinels = _sentinels(get_args(Role), template)

    def turn(texts: Mapping[str, str], *, folds: bool, answer: bool) -> str:
        # A folded prompt is one slot, "user".
        system = "" if folds else texts["system"]
        messages = conversation(system, texts["user"], folds_system=folds)
        if answer:
            messages.append({"role": "assistant", "content": texts["assistant"]})
        return render(messages, not answer)

    folds_system, refusal = False, ""
    try:
        rendered = turn(sentinels, folds=False, answer=False)
        folds_system = sentinels["system"] not in rendered
    except TemplateRefusal as error:
        folds_system, refusal = True, str(error)
    names = ["user"] if folds_system else ["system", "user"]
    try:
        prompt, _ = _slots(partial(turn, folds=folds_system, answer=False), sentinels, names)
        full, slots = _slots(
            partial(turn, folds=folds_system, answer=True), sentinels, [*names, "assistant"]
        )
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


def _sentinels(names: Iterable[str], template: str) -> dict[str, str]:
    """Returns a character for each name that the template's text does not hold."""
    unused = (chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in template)
    wanted = list(names)
    sentinels = dict(zip(wanted, unused, strict=False))
    if len(sentinels) < len(wanted):
        raise ModelError("the chat template uses every character for private use")
    return sentinels


def _slots(
    rendered: Callable[[Mapping[str, str]], str],
    sentinels: Mapping[str, str],
    names: Sequence[str],
    results: Collection[str] = (),
) -> tuple[list[TemplatePiece], list[str]]:
    """Returns literal, slot, literal, ..., literal, and the slots' names.

    A second rendering has white space around each content, which shows where it is trimmed.

    Args:
        rendered: Renders the texts of the names.
        names: The texts that must be in the rendering.
        results: Those that the template may write as JSON, since they are a tool's results.
    """
    literals, found = _split(rendered(sentinels), sentinels)
    padded = {name: f"{_PADDING}{mark}{_PADDING[::-1]}" for name, mark in sentinels.items()}
    wide, wide_found = _split(rendered(padded), sentinels)
    if missing := set(names) - set(found):
        raise ModelError(f"the chat template leaves out the text of: {', '.join(sorted(missing))}")
    last = len(found)
    edges = [
        _edges(wide_literal, literal, index > 0, index < last)
        for index, (wide_literal, literal) in enumerate(zip(wide, literals, strict=False))
    ]
    pieces: list[TemplatePiece] = [literals[0]]
    for name, before, after, literal in zip(found, edges, edges[1:], literals[1:], strict=False):
        as_json = before is not None and before[1] == "json"
        if (
            before is None
            or after is None
            or wide_found != found
            or (as_json and name not in results)
        ):
            raise ModelError(f"the chat template changes the text of the {name} message")
        pieces += [Slot(name, left=before[1], right=after[0]), literal]
    return pieces, found


def _edges(
    wide: str, literal: str, after_slot: bool, before_slot: bool
) -> tuple[Edge, Edge] | None:
    """Returns what became of the padding at both ends of a literal, None if unclear.

    A slot's padding is part of the literals around it: the split is at its sentinel.
    """
    none: Sequence[Edge] = ["stripped"]
    for right in _EDGES if after_slot else none:
        for left in _EDGES if before_slot else none:
            if wide == _EDGES[right][1] + literal + _EDGES[left][0]:
                return right, left
    return None


def _split(rendered: str, sentinels: Mapping[str, str]) -> tuple[list[str], list[str]]:
    name_of = {mark: name for name, mark in sentinels.items()}
    literal, *rest = re.split(f"([{''.join(name_of)}])", rendered)
    return [literal, *rest[1::2]], [name_of[mark] for mark in rest[::2]]


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
    """Text and slots between two control tokens; encoded as one text, since merges cross parts."""

    parts: tuple[TemplatePiece, ...]
    preceding: Preceding
    strips_left: bool  # the control token on that side swallows white space
    strips_right: bool

    def fill(
        self, values: Mapping[str, str], find_cuts: Callable[[str, str], set[int]]
    ) -> tuple[str, frozenset[int]]:
        text, cuts = "", set[int]()
        for part in self.parts:
            content = part.fill(values[part.name]) if isinstance(part, Slot) else part
            if isinstance(part, Slot):
                cuts.update(len(text) + cut for cut in find_cuts(part.name, content))
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
    pattern = _pattern_of(controls)
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
        if slots or span.fill({}, lambda name, content: set())[0]:
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


def _pattern_of(controls: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted(controls, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")


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


@dataclass(frozen=True)
class Layout:
    """A prompt's template for one number, order and trust of its texts."""

    pieces: tuple[TemplatePiece, ...]
    items: tuple[TemplateItem, ...]
    guard: MarkerGuard  # finds the layout's plain-text markers in content
    untrusted: frozenset[str] = frozenset()  # names of the untrusted spans' slots

    def cuts(self, name: str, content: str) -> set[int]:
        return self.guard.cuts(content, disguised=name in self.untrusted)

    def around_untrusted(self) -> Iterator[tuple[str, str]]:
        """Yields the literals before and after each untrusted span."""
        triples = zip(self.pieces, self.pieces[1:], self.pieces[2:], strict=False)
        for before, slot, after in triples:
            if isinstance(slot, Slot) and slot.name in self.untrusted:
                yield str(before), str(after)


class ChatTemplate:
    """Renders chat prompts without ever reading content as control tokens.

    For text that repeats none of the template's markers, the ids equal those of the tokenizer's
    `apply_chat_template`. Text that spells a control token stays ordinary text. Text that repeats
    a plain-text marker (`[/INST]`) is encoded character by character (`MarkerGuard`). A template
    that writes the date gets a fixed date.

    A single text is the user's turn. Of several spans, an untrusted one is a message in the
    template's role for it (`tool_role`). Without such a role it stands in the user's turn inside
    `FENCE`, which is guarded as markers are, with its look-alikes.

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
            given = str(tokenizer.get_chat_template()) if template is None else template
        except ValueError as error:
            raise ModelError(
                "the tokenizer has no chat template: set `model.chat_template` in the profile to a "
                "Jinja file with the format that the model was trained on"
            ) from error
        own = given.startswith(_WRAP_BEGIN)
        self.text = given.partition(_WRAP_END)[2] if own else given
        self._dated = ("strftime_now" in self.text) * _FIXED_DATE + self.text
        self._plain = PlainEncoder(tokenizer)
        # Callers only read the cached lists.
        self._encode_text = lru_cache(maxsize=256)(self._plain.encode)
        self._try_turn()
        self.pieces = find_pieces(self._render, self._dated)
        self.folds_system = self.pieces.folds_system
        prompt = tuple(_split_items(self.pieces.prompt, self._plain.controls))
        self._answer = self._answer_items(prompt[-1])
        items = (*prompt, *self._answer)
        self._turn = Layout(
            self.pieces.prompt, prompt, MarkerGuard(_find_markers(items), self._plain)
        )
        self.markers = self._turn.guard.markers
        used = [item.id for item in items if isinstance(item, ControlToken)]
        self.control_ids = self._plain.forbid(used)
        # An answer always ends with a control token.
        ends = dict.fromkeys([used[-1], tokenizer.eos_token_id])
        self.stop_ids = [end for end in ends if end is not None]
        self._prefix = self._choose_prefix()
        self._layout = lru_cache(maxsize=256)(self._tried_layout)
        parts = [self.text, self._plain.definition, json.dumps(tokenizer.special_tokens_map)]
        self.fingerprint = hashlib.sha256("\0".join(parts).encode()).hexdigest()
        if self.text != given and self.exported != given:
            raise ModelError(
                "the chat template is an export of another version of llmcausal, which renders "
                "untrusted text in another way: export the checkpoint again with this version, or "
                "use that version"
            )

    @property
    def spaces_after_controls(self) -> bool:
        """Whether text after a control token gets a space before it (some SentencePiece models)."""
        return self._prefix["control"]

    @cached_property
    def tool_role(self) -> str:
        """The role of untrusted spans in this template; empty if it has none."""

        def render_all() -> None:
            for role, has_system, order in product(_TOOL_ROLES, (True, False), _ORDERS):
                with suppress(ModelError, TemplateRefusal):
                    self._taken_apart(has_system, _kinds(order), role)
            for others in _OTHER_ORDERS:
                with suppress(ModelError, TemplateRefusal):
                    self._literals_before(others)

        self._try_once("roles", render_all)
        return next(filter(self._has_role, _TOOL_ROLES), "")

    @cached_property
    def exported(self) -> str:
        """A template that renders messages (`as_messages`) as `encode_prompt` renders the spans.

        It is the template itself if this has a role for a tool's messages, else it rewrites the
        messages first: fences, folds the system prompt, joins the turns.
        """
        if self.tool_role == "tool":
            return self.text
        opening, closing = (json.dumps(part) for part in FENCE)
        content = "message['content']"
        words = {
            "CHANNEL": self.tool_role or "user",
            "SYSTEM": "user" if self.folds_system else "system",
            "TEXT": content if self.tool_role else f"{opening} + {content} + {closing}",
            "TOOL": self.tool_role,
        }
        wrap = re.sub("[A-Z]{4,}", lambda found: words[found[0]], _WRAP)
        return wrap + self.text

    def render(self, system: str, user: Content) -> str:
        """Returns the prompt as text for people; encoding this text would not be safe."""
        layout, values = self._laid_out(system, user)
        return "".join(
            piece.fill(values[piece.name]) if isinstance(piece, Slot) else piece
            for piece in layout.pieces
        )

    def encode_prompt(self, system: str, user: Content) -> list[int]:
        """Returns a prompt's ids.

        Raises:
            DataError: If a character is itself a control token, or the template does not allow the
                order of the spans.
        """
        layout, values = self._laid_out(system, user)
        return self._encode(layout.items, layout, values)

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
        ids = self._encode(self._answer, self._turn, {"assistant": response})
        return ids if ends else ids[:-1]

    def count_tokens(self, content: str) -> int:
        cuts = frozenset(self._turn.guard.cuts(content))
        return len(self._encode_text(content, prefix=False, cuts=cuts))

    def _laid_out(self, system: str, user: Content) -> tuple[Layout, dict[str, str]]:
        user = as_text(user)
        if isinstance(user, str):
            if self.folds_system:
                return self._turn, {"user": fold(system, user)}
            return self._turn, {"system": system, "user": user}
        kinds = tuple(Span(None, s.role if s.trusted else "tool", s.trusted) for s in user)
        # Some templates leave out an empty system prompt.
        has_system = bool(system.strip() if self.folds_system else system)
        layout = self._layout(has_system, kinds, self.tool_role)
        if isinstance(layout, str):
            order = ", ".join(message["role"] for message in as_messages(system, user))
            remedy = "change the order, or use another template (model.chat_template)"
            reason = f"spans: the chat template cannot render the order {order}: {layout}; {remedy}"
            raise DataError([reason], "a prompt cannot be rendered")
        return layout, {"system": system, **_named(span.words for span in user)}

    def _encode(
        self, items: Sequence[TemplateItem], layout: Layout, values: Mapping[str, str]
    ) -> list[int]:
        ids: list[int] = []
        for item in items:
            if isinstance(item, ControlToken):
                ids.append(item.id)
            else:
                text, cuts = item.fill(values, layout.cuts)
                ids += self._encode_text(text, prefix=self._prefix[item.preceding], cuts=cuts)
        return ids

    def _has_role(self, role: str) -> bool:
        """Whether the template always marks this role, by what content can neither write nor end.

        Before each text stands a control token, with a word or token that is before no text of
        another role. After it, a control token comes first.
        """
        if self.folds_system:  # there is no system turn to compare with
            return False
        try:
            own = [
                self._make_layout(has_system, _kinds(order), role)
                for has_system in (True, False)
                for order in _ORDERS
            ]
        except (ModelError, TemplateRefusal):
            return False
        marks: dict[str, set[str]] = {}
        for order in _OTHER_ORDERS:
            with suppress(ModelError, TemplateRefusal):
                for name, before in self._literals_before(order):
                    marks.setdefault(name, set()).update(self._marks(before))
        if marks.keys() != set(get_args(Role)):
            return False
        others = set[str]().union(*marks.values())
        return all(
            self._marks(before) - others
            and not self._plain.controls.keys().isdisjoint(self._marks(before))
            and self._starts_with_control(after)
            for layout in own
            for before, after in layout.around_untrusted()
        )

    def _literals_before(self, order: Sequence[Role]) -> list[tuple[str, str]]:
        """Renders messages as they are; returns each one's role and the literal before it."""
        names = [f"{place} {role}" for place, role in enumerate(order)]
        sentinels = _sentinels(names, self._dated)
        messages = [
            {"role": role, "content": sentinels[name]}
            for role, name in zip(order, names, strict=True)
        ]
        literals, found = _split(self._render(messages, True), sentinels)
        return [(name.split()[1], literal) for name, literal in zip(found, literals, strict=False)]

    def _marks(self, literal: str) -> set[str]:
        """Returns the control tokens and the words of a literal."""
        controls = self._plain.controls
        parts = _pattern_of(controls).split(literal)
        words = [[part] if part in controls else part.split() for part in parts]
        return {word for each in words for word in each if any(sign.isalnum() for sign in word)}

    def _starts_with_control(self, literal: str) -> bool:
        text, *controls = _pattern_of(self._plain.controls).split(literal)
        return bool(controls) and not any(sign.isalnum() for sign in text)

    def _messages(self, system: str, spans: Spans, tool_role: str) -> list[Message]:
        """Returns messages for the model's own template; `exported` does the same in Jinja.

        Rendering with that instead would double a trial's time: each role's template is compiled.
        """
        messages = as_messages(system, spans)
        if tool_role == "tool":
            return messages
        made: list[Message] = []
        for message in messages:
            role, text = message["role"], message["content"]
            if role == "system" and self.folds_system:
                if not text.strip():
                    continue
                role = "user"
            elif role == "tool":
                text = text if tool_role else f"{FENCE[0]}{text}{FENCE[1]}"
                role = tool_role or "user"
            if made and role == made[-1]["role"] != tool_role:
                text = f"{made.pop()['content']}\n\n{text}"
            made.append({"role": role, "content": text})
        return made

    def _tried_layout(self, has_system: bool, kinds: Spans, tool_role: str) -> Layout | str:
        """Returns a layout, or why there is none: a refusal is remembered too."""
        try:
            _refuse_unbounded(partial(self._taken_apart, has_system, kinds, tool_role))
            return self._make_layout(has_system, kinds, tool_role)
        except (ModelError, TemplateRefusal) as error:
            return str(error)

    def _taken_apart(
        self, has_system: bool, kinds: Spans, tool_role: str
    ) -> tuple[list[str | Slot], list[tuple[dict[str, str], str]]]:
        """Takes the template apart for spans of these roles and trust, as for a single turn.

        It only renders: a trial runs it in a forked process, where a tokenizer can deadlock.

        Returns:
            The pieces, and probes: the texts by slot, and their rendering.

        Raises:
            TemplateRefusal: If the template refuses their order.
            ModelError: If it leaves out or changes a text.
        """
        names = [*(["system"] if has_system else []), *_named(kinds)]

        def rendered(texts: Mapping[str, str]) -> str:
            spans = tuple(replace(kind, text=texts[name]) for name, kind in _named(kinds).items())
            return self._render(self._messages(texts.get("system", ""), spans, tool_role), True)

        results = _untrusted(kinds) if tool_role else ()
        pieces, found = _slots(rendered, _sentinels(names, self._dated), names, results)
        if found != names:
            raise ModelError("the chat template repeats a text or changes the order")
        probes = [
            _named(by_role["tool" if not kind.trusted else kind.role] for kind in kinds)
            | {"system": by_role["system"] if has_system else ""}
            for by_role in _PROBES
        ]
        return pieces, [(texts, rendered(texts)) for texts in probes]

    def _make_layout(self, has_system: bool, kinds: Spans, tool_role: str) -> Layout:
        """Makes the layout of spans, and compares its ids with the template's own.

        Raises:
            TemplateRefusal, ModelError: As `_taken_apart`, or if it cannot be rendered safely.
        """
        pieces, probes = self._taken_apart(has_system, kinds, tool_role)
        items = _split_items(pieces, self._plain.controls)
        if self._plain.unknown_id in [i.id for i in items if isinstance(i, ControlToken)]:
            raise ModelError("the chat template uses the token of unknown characters")
        markers = _find_markers([*items, *self._answer])
        if not tool_role:
            markers.update(part.strip() for part in FENCE)
        guard = MarkerGuard(markers, self._plain, "" if tool_role else _FENCE_LETTERS)
        layout = Layout(tuple(pieces), tuple(items), guard, _untrusted(kinds))
        for texts, rendering in probes:
            wanted, own = self._ids(rendering), self._encode(items, layout, texts)
            if own != wanted:
                raise _not_reproduced(self._first_difference(own, wanted))
        return layout

    def _answer_items(self, before: TemplateItem) -> list[TemplateItem]:
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
        return _split_items([pieces.lead, pieces.answer, tail], controls, before)

    def _try_turn(self) -> None:
        """Tries the constructor's renderings within limits, as is done for each other layout."""
        if len(self.text) > MAX_TEMPLATE_BYTES:
            raise ModelError(f"the chat template is longer than {MAX_TEMPLATE_BYTES:,} characters")

        def render_all() -> None:
            folds = find_pieces(self._render, self._dated).folds_system
            list(self._probed_turns(folds))

        self._try_once("turn", render_all)

    def _probed_turns(self, folds_system: bool) -> Iterator[tuple[Mapping[str, str], str, str]]:
        """Yields each probe's texts, and its renderings without and with the answer."""
        for texts in _PROBES:
            messages = conversation(texts["system"], texts["user"], folds_system=folds_system)
            prompt = self._render(messages, True)
            messages.append({"role": "assistant", "content": texts["assistant"]})
            yield texts, prompt, self._render(messages, False)

    def _try_once(self, what: str, work: Callable[[], object]) -> None:
        named = f"{what}\0{self.tokenizer.special_tokens_map}\0{self.text}"
        if named not in _BOUNDED:
            _refuse_unbounded(work)
            _BOUNDED.add(named)

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        import jinja2

        try:
            rendered = self.tokenizer.apply_chat_template(
                list(messages),
                chat_template=self._dated,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
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
        text = str(rendered)
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise TemplateRefusal("it writes half of a character (a lone surrogate)")
        return text

    def _ids(self, rendering: str) -> list[int]:
        """Returns a rendering's ids, as `apply_chat_template` makes them."""
        ids: list[int] = self.tokenizer(rendering, add_special_tokens=False)["input_ids"]
        return ids

    def _choose_prefix(self) -> dict[Preceding, bool]:
        """Finds where this tokenizer adds its prefix space: the choice that gives equal ids."""
        choices = (False, True) if self._plain.adds_prefix else (False,)
        failure = ""
        for at_start, after_control in product(choices, repeat=2):
            self._prefix = {"nothing": at_start, "control": after_control, "text": False}
            failure = self._difference()
            if not failure:
                return self._prefix
        raise _not_reproduced(failure)

    def _difference(self) -> str:
        """Compares probes with the reference; returns the first difference, or nothing."""
        for texts, prompt, turn in self._probed_turns(self.folds_system):
            own = self.encode_prompt(texts["system"], texts["user"])
            wanted, full = self._ids(prompt), self._ids(turn)
            # After a control token the reference also has a token boundary before the answer.
            if isinstance(self._turn.items[-1], ControlToken) and full[: len(wanted)] == wanted:
                own = own + self.encode_response(texts["assistant"])
                wanted = full[: len(own)]
            if own != wanted:
                return self._first_difference(own, wanted)
        return ""

    def _first_difference(self, own: list[int], wanted: list[int]) -> str:
        pairs = zip_longest(own, wanted)
        at = next(index for index, (a, b) in enumerate(pairs) if a != b)
        around = slice(max(at - 2, 0), at + 6)
        mine, theirs = (self.tokenizer.convert_ids_to_tokens(ids[around]) for ids in (own, wanted))
        return f"at token {at} this gives {mine} and apply_chat_template {theirs}"


def _kinds(order: Iterable[SpanRole]) -> Spans:
    return tuple(Span(role=role, trusted=role != "tool") for role in order)


def _named(values: Iterable[T]) -> dict[str, T]:
    """Returns spans, or what belongs to them, by the names of their slots."""
    return {str(place): value for place, value in enumerate(values)}


def _untrusted(kinds: Spans) -> frozenset[str]:
    return frozenset(name for name, kind in _named(kinds).items() if not kind.trusted)


def _not_reproduced(difference: str) -> ModelError:
    return ModelError(
        "this tokenizer's chat prompts cannot be reproduced token by token, so they cannot be "
        f"rendered safely: {difference}"
    )


def _refuse_unbounded(work: Callable[[], object]) -> None:
    if limit := broken_limit(work):
        raise ModelError(
            f"the chat template takes {limit} to render a short conversation; use another one "
            "(model.chat_template)"
        )
