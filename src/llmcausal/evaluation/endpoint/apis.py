"""What each kind of server is sent, and where in its reply the answer is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from llmcausal.evaluation.evaluate import PromptPair
from llmcausal.evaluation.generation import Answer

if TYPE_CHECKING:
    from llmcausal.data.template import ChatTemplate


class Api(ABC):
    """One kind of server.

    Attributes:
        root: Path of the API where the URL has none of its own.
        path: What comes after it.
    """

    root: ClassVar[str] = "/v1"
    path: ClassVar[str]

    @property
    def rendering(self) -> str:
        """What the rendering of prompts is named by; empty where the server renders."""
        return ""

    @abstractmethod
    def body(self, prompt: PromptPair, model: str, max_new_tokens: int) -> dict[str, Any]:
        """Returns a request for the greedy answer.

        Raises:
            DataError: If the prompt cannot be rendered.
        """

    @abstractmethod
    def read(self, reply: Any) -> Answer:
        """Returns the answer in a reply.

        Raises:
            LookupError, TypeError, AttributeError: If the reply has another form.
        """


class Chat(Api):
    """OpenAI's chat completions; the server renders the messages."""

    path = "/chat/completions"

    def body(self, prompt: PromptPair, model: str, max_new_tokens: int) -> dict[str, Any]:
        """Returns a request with a system and a user message."""
        messages = _messages(prompt)
        return {
            "model": model, "messages": messages, "max_tokens": max_new_tokens, "temperature": 0,
        }  # fmt: skip

    def read(self, reply: Any) -> Answer:
        """Returns the message of the first choice."""
        choice = reply["choices"][0]
        return _answer(choice["message"]["content"], choice["finish_reason"])


@dataclass(frozen=True)
class Completions(Api):
    """OpenAI's completions with token ids, rendered here: text never becomes a control token."""

    template: ChatTemplate
    path = "/completions"

    @property
    def rendering(self) -> str:
        """Template and tokenizer."""
        return self.template.fingerprint

    def body(self, prompt: PromptPair, model: str, max_new_tokens: int) -> dict[str, Any]:
        """Returns a request with the prompt's token ids."""
        ids = self.template.encode_prompt(*prompt)
        return {"model": model, "prompt": ids, "max_tokens": max_new_tokens, "temperature": 0}

    def read(self, reply: Any) -> Answer:
        """Returns the text of the first choice."""
        choice = reply["choices"][0]
        return _answer(choice["text"], choice["finish_reason"])


class Ollama(Api):
    """Ollama's own chat; the server renders the messages."""

    root = "/api"
    path = "/chat"

    def body(self, prompt: PromptPair, model: str, max_new_tokens: int) -> dict[str, Any]:
        """Returns a request with a system and a user message."""
        options = {"temperature": 0, "num_predict": max_new_tokens}
        return {"model": model, "messages": _messages(prompt), "stream": False, "options": options}

    def read(self, reply: Any) -> Answer:
        """Returns the message."""
        return _answer(reply["message"]["content"], reply["done_reason"])


def _messages(prompt: PromptPair) -> list[dict[str, str]]:
    system, user = prompt
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def _answer(text: str | None, reason: object) -> Answer:
    if not isinstance(text, str | None):
        raise TypeError
    return Answer((text or "").strip(), reason == "stop")
