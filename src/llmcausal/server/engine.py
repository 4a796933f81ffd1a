"""One thread that answers: one prompt at a time, in the order of arrival.

So an answer never depends on who else asks, and is the one that the prompt gets alone.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmcausal.errors import DataError
from llmcausal.evaluation.generation import (
    Answer,
    GrowingAnswer,
    Stream,
    base_model_of,
    streaming,
    without_adapter,
)
from llmcausal.server.asked import Asked, Refusal

if TYPE_CHECKING:
    from llmcausal.data.template import ChatTemplate

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """The most that requests may take; what goes beyond is refused.

    Attributes:
        body_bytes: Size of a request.
        prompt_tokens: Tokens of a prompt.
        new_tokens: Tokens of an answer, also where a request does not say.
        waiting: Requests that wait for their turn.
        client_seconds: How long a client may take to send a request, and to take more of its
            answer.
    """

    body_bytes: int = 2**20
    prompt_tokens: int = 4096
    new_tokens: int = 512
    waiting: int = 32
    client_seconds: float = 30.0


@dataclass(frozen=True)
class Piece:
    """The next text of a streamed answer."""

    text: str


@dataclass(frozen=True)
class Finished:
    """The end of an answer.

    Attributes:
        rest: Text that was not given out as a piece.
        answer: The whole answer.
        prompt_tokens: Tokens of the prompt.
        new_tokens: Tokens of the answer, a stop token included.
    """

    rest: str
    answer: Answer
    prompt_tokens: int
    new_tokens: int


Event = Piece | Finished | Refusal
Tell = Callable[[Event], None]
"""Called from the engine's thread; must not block."""


@dataclass(eq=False)
class Job:
    """A request in the queue or at work."""

    asked: Asked
    tell: Tell
    cancelled: threading.Event = field(default_factory=threading.Event)


class Engine:
    """Owns a model, and the only thread that computes with it.

    Args:
        model: A transformers model, or a `PeftModel` around one.
        template: Renders prompts.
        limits: What is refused.
        adapter: Answer with the adapter; otherwise as the untouched base.
    """

    def __init__(
        self, model: Any, template: ChatTemplate, limits: Limits, *, adapter: bool = True
    ) -> None:
        self.limits = limits
        self.adapter = adapter
        self._model = model
        self._template = template
        config = base_model_of(model).config.get_text_config()
        self._context: int | None = getattr(config, "max_position_embeddings", None)
        self._tokens: int = config.vocab_size
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="llmcausal-answers", daemon=True)

    def start(self) -> None:
        """Makes the model ready, and returns when it is.

        Raises:
            Exception: Whatever keeps the model from answering.
        """
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    @property
    def alive(self) -> bool:
        """Whether requests are answered."""
        return self._thread.is_alive() and not self._closed

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return len(self._waiting)

    def submit(self, asked: Asked, tell: Tell) -> Job:
        """Puts a request at the end of the queue.

        Args:
            asked: The request.
            tell: Called with every piece of a streamed answer, then with its end, or with a
                refusal.

        Raises:
            Refusal: If the queue is full, or nothing is answered any more.
        """
        job = Job(asked, tell)
        with self._changed:
            if not self.alive:
                raise _closed()
            if len(self._waiting) >= self.limits.waiting:
                raise Refusal(429, "busy", "too many requests wait; try again later")
            self._waiting.append(job)
            self._changed.notify()
        return job

    def cancel(self, job: Job) -> None:
        """Gives a request up; of one that is at work, at its next token."""
        job.cancelled.set()
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)

    def close(self) -> None:
        """Ends the thread; requests that are not answered by then are refused."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        longest = self.limits.prompt_tokens + self.limits.new_tokens
        try:
            with (
                nullcontext() if self.adapter else without_adapter(self._model),
                streaming(self._model, self._template.stop_ids, longest) as stream,
            ):
                self._ready.set()
                while (job := self._next()) is not None:
                    self._do(job, stream)
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()
            with self._changed:
                self._closed = True
                left = list(self._waiting)
                self._waiting.clear()
            for job in left:
                job.tell(_closed())

    def _next(self) -> Job | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting)
            return None if self._closed else self._waiting.popleft()

    def _do(self, job: Job, stream: Stream) -> None:
        try:
            self._answer(job, stream)
        except Refusal as refusal:
            job.tell(refusal)
        except Exception as error:
            # Its message may quote the prompt, which belongs into no log.
            _log.error("a request failed: %s", type(error).__name__)
            job.tell(Refusal(500, "failed", f"answering failed: {type(error).__name__}"))

    def _answer(self, job: Job, stream: Stream) -> None:
        prompt = self._rendered(job.asked)
        answer = GrowingAnswer(self._template)
        for token in stream(prompt, self._new_tokens(job.asked, len(prompt))):
            if job.cancelled.is_set() or self._closed:
                job.tell(_closed())
                return
            if not job.asked.streams:  # its text is read once, at the end
                answer.tokens.append(token)
            elif text := answer.add(token):
                job.tell(Piece(text))
        rest, whole = answer.finish()
        job.tell(Finished(rest, whole, len(prompt), len(answer.tokens)))

    def _rendered(self, asked: Asked) -> list[int]:
        system, *others = asked.prompt
        if isinstance(system, int):
            prompt = [system, *(int(each) for each in others)]
            if not all(0 <= token < self._tokens for token in prompt):
                raise Refusal(400, "invalid_request", f"prompt: ids are 0 to {self._tokens - 1}")
        else:
            try:
                prompt = self._template.encode_prompt(system, str(others[0]))
            except DataError as error:
                raise Refusal(400, "invalid_request", "; ".join(error.defects)) from None
        if len(prompt) > self.limits.prompt_tokens:
            most = self.limits.prompt_tokens
            message = f"the prompt has {len(prompt)} tokens, and may have {most}"
            raise Refusal(400, "context_length_exceeded", message)
        return prompt

    def _new_tokens(self, asked: Asked, prompt_tokens: int) -> int:
        most = self.limits.new_tokens
        if asked.max_tokens is not None and asked.max_tokens > most:
            message = f"max_tokens: {asked.max_tokens} is more than {most}"
            raise Refusal(400, "invalid_request", message)
        room = most if self._context is None else self._context - prompt_tokens
        if room < (asked.max_tokens or 1):
            message = (
                f"{prompt_tokens} prompt tokens and {asked.max_tokens or 1} new ones exceed the "
                f"model's context of {self._context}"
            )
            raise Refusal(400, "context_length_exceeded", message)
        return asked.max_tokens or min(most, room)


def _closed() -> Refusal:
    return Refusal(503, "unavailable", "the server is shutting down")
