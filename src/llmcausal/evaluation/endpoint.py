"""A deployed model's answers over HTTP: several prompts at once, with retries and a budget."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import random
import re
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import httpx

from llmcausal.data.spans import as_messages
from llmcausal.data.template import ChatTemplate
from llmcausal.errors import DataError, EndpointError, UsageError
from llmcausal.evaluation.answer_store import AnswerStore, Kept, rows_of
from llmcausal.evaluation.generation import Answer, Progress, PromptPair

KEY_VARIABLE = "LLMCAUSAL_ENDPOINT_KEY"
"""Environment variable with the API key, if the endpoint wants one."""
BASELINE_KEY_VARIABLE = "LLMCAUSAL_BASELINE_ENDPOINT_KEY"
"""The same for `--baseline-endpoint`, which never gets the key of another server."""
MAX_REPLY_BYTES = 8 * 2**20
RESUMED_WITHIN_SECONDS = 24 * 3600.0
_FINISHED = "finished"
_SHORTEST_KEY = 8
_SHOWN = 300
_REFUSED = (400, 413, 422)
"""The server refuses this prompt."""
_AGAIN = (408, 409, 425, 429)
"""The client tries again, as it does from 500."""
_AT_FIRST_SECONDS = 10.0
_IN_A_ROW = 3
_REFUSED_AT_FIRST = 8
_log = logging.getLogger(__name__)


class Api(ABC):
    """One kind of server: its requests and replies; `root` is the default path of the API."""

    root: ClassVar[str] = "/v1"
    path: ClassVar[str]

    @property
    def rendering(self) -> str:
        """Names the rendering of prompts; empty if the server renders."""
        return ""

    @abstractmethod
    def body(self, prompt: PromptPair, model: str, max_new_tokens: int) -> dict[str, Any]:
        """Returns a request for the greedy answer."""

    @abstractmethod
    def read(self, reply: Any) -> Answer:
        """Returns the answer; raises LookupError, TypeError or AttributeError for another form."""


class Chat(Api):
    """OpenAI's chat completions; the server renders the messages."""

    path = "/chat/completions"

    def body(self, prompt: PromptPair, model: str, max_new_tokens: int) -> dict[str, Any]:
        messages = as_messages(*prompt)
        return {
            "model": model, "messages": messages, "max_tokens": max_new_tokens, "temperature": 0,
        }  # fmt: skip

    def read(self, reply: Any) -> Answer:
        choice = reply["choices"][0]
        return _answer(choice["message"]["content"], choice["finish_reason"])


@dataclass(frozen=True)
class Completions(Api):
    """OpenAI's completions with token ids, rendered here: text never becomes a control token."""

    template: ChatTemplate
    path = "/completions"

    @property
    def rendering(self) -> str:
        return self.template.fingerprint

    def body(self, prompt: PromptPair, model: str, max_new_tokens: int) -> dict[str, Any]:
        ids = self.template.encode_prompt(*prompt)
        return {"model": model, "prompt": ids, "max_tokens": max_new_tokens, "temperature": 0}

    def read(self, reply: Any) -> Answer:
        choice = reply["choices"][0]
        return _answer(choice["text"], choice["finish_reason"])


class Ollama(Api):
    """Ollama's own chat; the server renders the messages."""

    root = "/api"
    path = "/chat"

    def body(self, prompt: PromptPair, model: str, max_new_tokens: int) -> dict[str, Any]:
        options = {"temperature": 0, "num_predict": max_new_tokens}
        return {
            "model": model,
            "messages": as_messages(*prompt),
            "stream": False,
            "options": options,
        }

    def read(self, reply: Any) -> Answer:
        return _answer(reply["message"]["content"], reply["done_reason"])


def _answer(text: str | None, reason: object) -> Answer:
    if not isinstance(text, str | None):
        raise TypeError
    return Answer((text or "").strip(), reason == "stop")


class KeptAnswers:
    """An endpoint's answers in one evaluation: an interrupted evaluation asks nothing twice.

    A URL does not prove that the same model still answers. Answers therefore count only for the
    evaluation that asked, until it ends, and for a day at most; with `finished` all count.
    `identity` names endpoint and evaluation. Without a store nothing is kept.
    """

    def __init__(
        self, store: AnswerStore | None = None, identity: object = None, *, finished: bool = False
    ) -> None:
        named = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        self._kept = Kept[Any](None, {})
        if store is not None:
            self._kept = store.open(f"endpoint-{named}", partial(read_kept, finished=finished))

    def get(self, prompt: PromptPair, max_new_tokens: int) -> Answer | None:
        row = self._kept.get(_key(prompt, max_new_tokens))
        return None if row is None else Answer(row["text"], row["stopped"])

    def add(self, prompt: PromptPair, max_new_tokens: int, answer: Answer) -> None:
        """Keeps an answer, on disk before it returns."""
        row = {"text": answer.text, "stopped": answer.stopped, "at": time.time()}
        self._kept.add({_key(prompt, max_new_tokens): row})

    def finish(self) -> None:
        """Ends the evaluation: the next one asks again."""
        self._kept.add({_FINISHED: {"at": time.time()}})


def _key(prompt: PromptPair, max_new_tokens: int) -> str:
    system, user = prompt
    content = user if isinstance(user, str) else [vars(span) for span in user]
    return hashlib.sha256(json.dumps([system, content, max_new_tokens]).encode()).hexdigest()


def read_kept(path: Path, *, finished: bool) -> dict[str, Any]:
    """Reads a file of kept answers without its damaged rows; `finished` as in `KeptAnswers`."""
    found: dict[str, Any] = {}
    oldest = float("-inf") if finished else time.time() - RESUMED_WITHIN_SECONDS
    for row in rows_of(path):
        if _FINISHED in row and not finished:
            found.clear()
        found |= {key: kept for key, kept in row.items() if _is_kept(kept) and kept["at"] >= oldest}
    return found


def _is_kept(value: object) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("text"), str)
        and isinstance(value.get("stopped"), bool)
        and isinstance(value.get("at"), int | float)
    )


@dataclass(frozen=True)
class EndpointOptions:
    """Where a user sets URL, model and key of an endpoint, for messages."""

    url: str = "--endpoint"
    model: str = "--model"
    key: str = KEY_VARIABLE


@dataclass(frozen=True)
class Endpoint:
    """A model behind a URL. The key is empty if none is needed; no text shows it."""

    url: str
    model: str
    api: Api
    key: str = field(default="", repr=False)
    options: EndpointOptions = EndpointOptions()

    def __post_init__(self) -> None:
        """Raises a UsageError if the URL or the key cannot be used."""
        option, variable = self.options.url, self.options.key
        try:
            url = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise UsageError(f"{option}: not a URL: {error}") from None
        sound = url.scheme in ("http", "https") and url.host and (url.port or 0) < 2**16
        if not sound:
            raise UsageError(f"{option}: give a URL such as http://localhost:8000/v1")
        if url.userinfo or url.query or url.fragment:
            raise UsageError(
                f"{option}: a URL with a password, a query or a fragment would get into reports; "
                f"leave it out, and give a key in the environment as {variable}"
            )
        if self.key and len(self.key) < _SHORTEST_KEY:
            raise UsageError(
                f"{variable}: shorter than {_SHORTEST_KEY} characters, so it cannot be kept "
                "out of texts that happen to hold it; unset it if the endpoint wants no key"
            )
        if not (self.key.isascii() and self.key.isprintable()):
            raise UsageError(f"{variable}: holds characters that no header may have")

    @property
    def address(self) -> str:
        url = httpx.URL(self.url)
        path = url.path.rstrip("/") or self.api.root
        return str(url.copy_with(path=path + self.api.path))

    def without_key(self, text: str) -> str:
        """Removes the key from text of the server, which may echo its request."""
        return text.replace(self.key, "[key]") if self.key else text


@dataclass(frozen=True)
class RequestPace:
    """Limits on the requests; the last four are in seconds.

    Attributes:
        requests: Maximum number, retries included; None for any number. Attempts that reach no
            server do not count.
        at_once: Simultaneous requests.
        timeout: Limit of one request.
        patience: Limit of one prompt's retries.
        first_wait: Wait before the second try; each further wait is twice as long.
        longest_wait: Longest wait between tries.
    """

    requests: int | None = None
    at_once: int = 8
    timeout: float = 120.0
    patience: float = 300.0
    first_wait: float = 1.0
    longest_wait: float = 30.0


@dataclass
class Replies:
    """The answers, the reason for each refused prompt, and counts.

    `requests` include the retries; `kept` answers are from an earlier, interrupted evaluation.
    """

    answers: dict[PromptPair, Answer] = field(default_factory=dict)
    refused: dict[PromptPair, str] = field(default_factory=dict)
    requests: int = 0
    retries: int = 0
    kept: int = 0


@dataclass(frozen=True)
class _Problem:
    """An attempt that may be repeated; `wait` is the server's request, in seconds."""

    text: str
    wait: float = 0.0
    is_of_server: bool = False


class _OutOfBudget(Exception):
    pass


class Asker:
    """Asks one endpoint; new answers are kept at once, and `replies` has them after an error.

    `replies` adds up over all calls of `ask`; `pace` may change between them.
    """

    def __init__(
        self, endpoint: Endpoint, pace: RequestPace, kept: KeptAnswers, max_new_tokens: int
    ) -> None:
        self._endpoint = endpoint
        self.pace = pace
        self._kept = kept
        self._max_new_tokens = max_new_tokens
        self.replies = Replies()
        self._reached = False
        self._failing = False
        self._given_up_in_a_row = 0

    def ask(self, prompts: Sequence[PromptPair], progress: Progress | None = None) -> Replies:
        """Asks for answers to distinct prompts, in order.

        Raises:
            EndpointError: If the endpoint does not answer, or in an unexpected form.
            UsageError: If it refuses the key, or has no such model.
        """
        left = deque[PromptPair]()
        for prompt in prompts:
            if prompt in self.replies.answers or prompt in self.replies.refused:
                continue
            if (answer := self._kept.get(prompt, self._max_new_tokens)) is None:
                left.append(prompt)
            else:
                self.replies.answers[prompt] = answer
                self.replies.kept += 1
        asyncio.run(self._ask_all(left, len(prompts), progress))
        return self.replies

    async def _ask_all(
        self, left: deque[PromptPair], total: int, progress: Progress | None
    ) -> None:
        headers = {"accept-encoding": "identity", "content-type": "application/json"}
        if self._endpoint.key:
            headers["authorization"] = f"Bearer {self._endpoint.key}"
        timeout = httpx.Timeout(None, connect=min(10.0, self.pace.timeout))
        host = httpx.URL(self._endpoint.url).host
        proxied = host not in ("localhost", "127.0.0.1", "::1")

        def show() -> None:
            if progress:
                done = len(self.replies.answers) + len(self.replies.refused)
                progress(done, max(done, total))

        async def work(client: httpx.AsyncClient) -> None:
            while left:
                prompt = left.popleft()
                try:
                    await self._settle(client, prompt)
                except _OutOfBudget:
                    left.clear()
                show()

        show()
        async with httpx.AsyncClient(headers=headers, timeout=timeout, trust_env=proxied) as client:
            tasks = [
                asyncio.ensure_future(work(client))
                for _ in range(min(self.pace.at_once, len(left)))
            ]
            try:
                await asyncio.gather(*tasks)
            except KeyboardInterrupt:  # SIGTERM in a task, which has ended the loop already
                raise asyncio.CancelledError from None
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _settle(self, client: httpx.AsyncClient, prompt: PromptPair) -> None:
        try:
            body = self._endpoint.api.body(prompt, self._endpoint.model, self._max_new_tokens)
        except DataError as error:
            self.replies.refused[prompt] = "; ".join(error.defects)
            return
        came = await self._tried(client, json.dumps(body))
        if isinstance(came, Answer):
            self._kept.add(prompt, self._max_new_tokens, came)
            self.replies.answers[prompt] = came
            return
        self.replies.refused[prompt] = came
        if not self.replies.answers and len(self.replies.refused) >= _REFUSED_AT_FIRST:
            raise EndpointError(f"{self._endpoint.address} answers no prompt: {came}")

    async def _tried(self, client: httpx.AsyncClient, body: str) -> Answer | str:
        pace, loop = self.pace, asyncio.get_running_loop()
        began, wait, attempts = loop.time(), pace.first_wait, 0
        while True:
            came = await self._attempt(client, body, again=attempts > 0)
            attempts += 1
            if not isinstance(came, _Problem):
                self._failing = False
                self._given_up_in_a_row = 0
                return came
            patience = pace.patience if self._reached else min(_AT_FIRST_SECONDS, pace.patience)
            pause = max(min(wait, pace.longest_wait) * random.uniform(0.5, 1), came.wait)
            if loop.time() - began + pause > patience:
                return self._given_up(came, attempts)
            if not self._failing:  # one warning for each outage, not for each attempt
                _log.warning("%s: %s; trying again", self._endpoint.address, came.text)
            self._failing = True
            wait *= 2
            await asyncio.sleep(pause)

    def _given_up(self, problem: _Problem, attempts: int) -> str:
        self._given_up_in_a_row += 1
        text = f"{problem.text}, {attempts} times"
        if problem.is_of_server or self._given_up_in_a_row >= _IN_A_ROW:
            raise EndpointError(f"{self._endpoint.address}: {text}")
        return text

    async def _attempt(
        self, client: httpx.AsyncClient, body: str, *, again: bool
    ) -> Answer | str | _Problem:
        replies, pace = self.replies, self.pace
        if pace.requests is not None and replies.requests >= pace.requests:
            raise _OutOfBudget
        replies.requests += 1
        replies.retries += again
        try:
            async with (
                asyncio.timeout(pace.timeout),
                client.stream("POST", self._endpoint.address, content=body) as response,
            ):
                content = await _content(response)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            replies.requests -= 1
            replies.retries -= again
            reason = self._endpoint.without_key(str(error)) or type(error).__name__
            return _Problem(f"cannot connect: {reason}", is_of_server=True)
        except (TimeoutError, httpx.TimeoutException):
            came: Answer | str | _Problem = _Problem(f"no answer within {pace.timeout:g} s")
        except httpx.HTTPError as error:
            came = _Problem(f"the connection broke ({type(error).__name__})")
        else:
            came = self._judged(response, content)
        self._reached = True
        return came

    def _judged(self, response: httpx.Response, content: bytes) -> Answer | str | _Problem:
        status = response.status_code
        if status == 200:
            return self._answer(content)
        text = f"HTTP {status}{self._said(content)}"
        if status in _REFUSED:
            return text
        if status >= 500 or status in _AGAIN:
            given = response.headers.get("retry-after", "")
            wait = float(given) if re.fullmatch(r"[0-9]{1,6}", given) else 0.0
            return _Problem(text, wait, is_of_server=status == 429)
        where, options = f"{self._endpoint.address}: {text}", self._endpoint.options
        if status in (401, 403):
            has = "does not take the key in" if self._endpoint.key else "wants a key: set"
            raise UsageError(f"{where}; the endpoint {has} {options.key}")
        if status in (404, 405):
            raise UsageError(f"{where}; check {options.url}, {options.model} and --api")
        raise EndpointError(where)

    def _answer(self, content: bytes) -> Answer:
        try:
            answer = self._endpoint.api.read(json.loads(content))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise EndpointError(
                f"{self._endpoint.address}: the reply has another form than --api expects "
                f"({type(error).__name__}): {self._shown(content)}"
            ) from None
        return Answer(self._endpoint.without_key(answer.text), answer.stopped)

    def _said(self, content: bytes) -> str:
        text = ""
        with suppress(ValueError, LookupError, TypeError, RecursionError):
            error = json.loads(content)["error"]
            text = error if isinstance(error, str) else str(error["message"])
        shown = self._shown(text.encode() or content)
        return f": {shown}" if shown else ""

    def _shown(self, content: bytes) -> str:
        # The key is removed before the text is cut, or a part of the key could remain.
        text = self._endpoint.without_key(content.decode("utf-8", errors="replace"))
        return " ".join(text.split())[:_SHOWN]


async def _content(response: httpx.Response) -> bytes:
    content = b""
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > MAX_REPLY_BYTES:
            raise EndpointError(f"a reply is larger than {MAX_REPLY_BYTES} bytes")
    return content
