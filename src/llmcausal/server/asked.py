"""Requests, read strictly: the server refuses every field that it cannot honor."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmcausal.data.formats.record import read_content
from llmcausal.data.spans import Content
from llmcausal.data.template import fold
from llmcausal.errors import DataError
from llmcausal.registry import nearest

Values = Mapping[str, Any]

_ORDERS = (("system", "user"), ("system", "tool"), ("user", "tool"), ("system", "user", "tool"))
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "temperature": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "echo": (False,),
    "stop": ([],),
    "tools": ([],),
    "response_format": ({"type": "text"},),
}
"""Fields and the only values that greedy decoding of one answer allows, besides null."""
_WITHOUT_EFFECT = ("top_p", "top_k", "seed", "user", "metadata", "stream_options", "suffix")
_MESSAGE_KEYS = ("role", "content", "trusted", "name", "tool_call_id")
"""Keys of a message; the last two have no effect."""
_SHARED = ("model", "max_tokens", "max_completion_tokens", "stream")


class Refusal(Exception):
    """A refused request, with its HTTP status, a code for programs and a message for people."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass(frozen=True)
class Asked:
    """A request; `prompt` is the system prompt and what follows it, or token ids."""

    prompt: tuple[str, Content] | list[int]
    model: str
    max_tokens: int | None
    streams: bool


def read_chat(body: bytes, *, spans: bool = False) -> Asked:
    """Reads a request for a chat completion; raises `Refusal` for anything else.

    Messages are one turn, or spans if a message has `trusted`, or if the checkpoint was trained on
    `spans` and they are more than a system and a user message. Of one turn the roles are those of
    `_ORDERS`. Its last message is the untrusted text, as the user's turn is in training; those
    before it are the trusted task. Of spans a tool's message is untrusted, and a user's if
    `trusted` is false.
    """
    values = _object(body)
    _refuse_others(values, "messages")
    messages = values.get("messages")
    if not isinstance(messages, list) or not all(isinstance(each, dict) for each in messages):
        raise _bad("messages: must be a list of objects with role and content")
    for index, message in enumerate(messages):
        _refuse_keys(message, index)
    roles = tuple(str(message.get("role")) for message in messages)
    explicit = any(message.get("trusted") is not None for message in messages)
    if explicit or (spans and roles != ("system", "user")):
        return _asked(values, _spans(messages))
    if roles not in _ORDERS:
        known = "; ".join(", ".join(order) for order in _ORDERS)
        raise _bad(
            f"messages: roles {', '.join(roles)[:80] or 'none'} are not one turn as in training, "
            f"which is one of: {known}. The last message is the untrusted text. To send a "
            "conversation all the same, give its messages `trusted`, true or false"
        )
    *trusted, untrusted = [_content(message, index) for index, message in enumerate(messages)]
    return _asked(values, (fold(*trusted) if len(trusted) == 2 else trusted[0], untrusted))


def _spans(messages: Sequence[Values]) -> tuple[str, Content]:
    texts = [_content(message, index) for index, message in enumerate(messages)]
    system, first = "", 0
    if messages and messages[0].get("role") == "system":
        if messages[0].get("trusted") not in (None, True):
            raise _bad("messages[0].trusted: the system prompt is trusted; leave trusted out")
        system, first = texts[0], 1
    spans: list[Values] = []
    for message, text in zip(messages[first:], texts[first:], strict=True):
        role, trusted = message.get("role"), message.get("trusted")
        if role is None:
            raise _bad(f"messages[{first + len(spans)}].role: missing")
        trusted = role in ("user", "assistant") if trusted is None else trusted
        spans.append({"role": role, "trusted": trusted, "text": text})
    if not spans:
        raise _bad("messages: no user's or tool's message")
    try:
        return system, read_content(spans)
    except DataError as error:
        raise _bad("; ".join(_in_messages(defect, first) for defect in error.defects)) from None


def _in_messages(defect: str, first: int) -> str:
    """Names the field of a request in place of the span's."""
    place = re.match(r"spans\[(\d+)\](\.text)?", defect)
    if place is None:
        return re.sub(r"^spans\b", "messages", defect)
    field = f"messages[{int(place[1]) + first}]{'.content' if place[2] else ''}"
    return field + defect[place.end() :]


def _refuse_keys(message: Values, index: int) -> None:
    """Refuses what has no place in a prompt; a misspelt `trusted` would change what is obeyed."""
    for key in (key for key, value in message.items() if value is not None):
        if key == "tool_calls":
            raise _bad(
                f"messages[{index}].tool_calls: this program renders no calls of tools; leave them "
                "out, or write them into content"
            )
        if key not in _MESSAGE_KEYS:
            hint = f"{nearest(key[:80], _MESSAGE_KEYS)} (known: {', '.join(_MESSAGE_KEYS)})"
            raise _bad(f"messages[{index}]: unknown key {key[:80]!a}{hint}")


def read_completion(body: bytes) -> Asked:
    """Reads a request for a completion of token ids; raises `Refusal` for anything else."""
    values = _object(body)
    _refuse_others(values, "prompt")
    prompt = values.get("prompt")
    if isinstance(prompt, str):
        raise _bad(
            "prompt: text could spell control tokens; give the token ids that "
            "llmcausal.render_prompt returns, or messages to /v1/chat/completions"
        )
    if not isinstance(prompt, list) or not prompt or not all(_is_whole(each) for each in prompt):
        raise _bad("prompt: must be a list of token ids")
    return _asked(values, prompt)


def _object(body: bytes) -> Values:
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:  # includes text that is not UTF-8
        raise _bad(f"the body is not JSON: {type(error).__name__}") from None
    if not isinstance(values, dict):
        raise _bad("the body must be a JSON object")
    return values


def _refuse_others(values: Values, own: str) -> None:
    for name, value in values.items():
        if value is None or name in (own, *_SHARED, *_WITHOUT_EFFECT):
            continue
        if name not in _NEUTRAL:
            raise _bad(f"{name[:80]}: this server does not know it; leave it out")
        if value not in _NEUTRAL[name]:
            only = json.dumps(_NEUTRAL[name][0])
            raise _bad(f"{name}: this server decodes greedily; only {only} is possible")


def _asked(values: Values, prompt: tuple[str, Content] | list[int]) -> Asked:
    model, streams = values.get("model"), values.get("stream")
    if model is not None and not isinstance(model, str):
        raise _bad("model: must be a string")
    if streams is not None and not isinstance(streams, bool):
        raise _bad("stream: must be true or false")
    limits = [values.get(name) for name in ("max_tokens", "max_completion_tokens")]
    given = [limit for limit in limits if limit is not None]
    if not all(_is_whole(limit) and limit > 0 for limit in given) or len(set(given)) > 1:
        raise _bad("max_tokens: must be one whole number above 0")
    return Asked(prompt, model or "", given[0] if given else None, bool(streams))


def _content(message: Values, index: int) -> str:
    content = message.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str):
        texts = [part.get("text") if isinstance(part, dict) else None for part in content]
        parts = [text for text in texts if isinstance(text, str)]
        content = "".join(parts) if len(parts) == len(texts) else None
    if content is None:
        raise _bad(
            f"messages[{index}].content: must be text, is null or missing; leave out a message "
            "without text, such as a mere call of a tool"
        )
    if not isinstance(content, str):
        raise _bad(f"messages[{index}].content: must be text")
    try:
        content.encode()
    except UnicodeEncodeError:
        raise _bad(f"messages[{index}].content: contains half of a character") from None
    return content


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _bad(message: str) -> Refusal:
    return Refusal(400, "invalid_request", message)
