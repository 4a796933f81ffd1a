"""Conversations: OpenAI `messages` (role, content) and ShareGPT `conversations` (from, value)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmcausal.data.sources.example import (
    Item,
    LeftOut,
    SourceExample,
    SourceRequest,
    Unusable,
    parsed,
    sound_text,
)

SYSTEM = "You are a helpful assistant. Answer the user's last message."
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
}


def read(path: Path, request: SourceRequest, left_out: LeftOut) -> Iterator[SourceExample]:
    """Reads JSON or JSONL; the last answered user turn is the task, earlier turns its context."""
    return parsed(path, _parse, left_out)


def _parse(item: Item) -> SourceExample:
    where, number, record = item
    turns = _turns(record)
    system = "\n\n".join(text for role, text in turns if role == "system")
    turns = [turn for turn in turns if turn[0] in ("user", "assistant")]
    answered = [
        index
        for index in range(1, len(turns))
        if turns[index][0] == "assistant" and turns[index - 1][0] == "user"
    ]
    if not answered:
        raise Unusable("messages: no user turn is answered by the assistant")
    last = answered[-1]
    earlier = [f"{role.capitalize()}: {text}" for role, text in turns[: last - 1]]
    return SourceExample(
        where=where,
        id=number,
        system=system or SYSTEM,
        document=turns[last - 1][1],
        question="",
        response=turns[last][1],
        category="chat",
        context="\n".join(earlier),
    )


def _turns(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    key = "messages" if "messages" in record else "conversations"
    messages = record.get(key)
    if not isinstance(messages, list):
        raise Unusable("messages: missing (conversations is also read)")
    turns = []
    for message in messages:
        if not isinstance(message, dict):
            raise Unusable(f"{key}: must be a list of objects")
        name = message.get("role", message.get("from"))
        role = ROLES.get(name.lower()) if isinstance(name, str) else None
        content = message.get("content", message.get("value"))
        if role is None or content is None:  # a tool call, or its result
            raise Unusable(f"{key}: a turn is not text by system, user or assistant")
        turns.append((role, sound_text(key, _flat(content))))
    return turns


def _flat(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    parts = [part.get("text") if isinstance(part, dict) else None for part in content]
    texts = [part for part in parts if isinstance(part, str)]
    return "\n".join(texts) if len(texts) == len(parts) else None
