"""One thread that answers one prompt at a time, in the order of arrival.

So an answer never depends on other requests.
"""

from __future__ import annotations

import logging
import re
import threading
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmcausal.errors import DataError
from llmcausal.evaluation.generation import (
    Answer,
    Stream,
    base_model_of,
    read_answers,
    streaming,
    without_adapter,
)
from llmcausal.server.asked import Asked, Refusal

if TYPE_CHECKING:
    from llmcausal.data.template import ChatTemplate
    from llmcausal.evaluation.detection import Detector

_log = logging.getLogger(__name__)
_UNREADABLE = "\ufffd"
_BYTE = re.compile("<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class Limits:
    """Maxima; the server refuses requests that need more."""

    body_bytes: int = 2**20
    prompt_tokens: int = 4096
    new_tokens: int = 512  # also of an answer to a request without a limit
    waiting: int = 32  # requests in the queue
    client_seconds: float = 30.0  # to send a request, and to read more of its answer


@dataclass(frozen=True)
class Finished:
    rest: str  # text that no event before has
    answer: Answer
    prompt_tokens: int
    new_tokens: int  # including a stop token
    detection: dict[str, Any] | None = None  # the detector's result for the prompt


Event = str | Finished | Refusal
"""The next text of a streamed answer, or how the request ends."""
Tell = Callable[[Event], None]
"""Called from the engine's thread; must not block."""


@dataclass(eq=False)
class Job:
    """A request in the queue or at work."""

    asked: Asked
    tell: Tell
    cancelled: threading.Event = field(default_factory=threading.Event)


class GrowingAnswer:
    """An answer whose tokens are still arriving; its pieces, joined, are the whole answer's text.

    A piece excludes text that the next token may still change: half of a character, and white space
    that the whole answer would lose at its end. Each call decodes only the last tokens, so the
    time is linear in the answer's length.
    """

    def __init__(self, template: ChatTemplate) -> None:
        self.tokens: list[int] = []
        self._template = template
        self._special = frozenset(template.tokenizer.all_special_ids)
        self._start = 0
        """Index of the first token that is decoded again, as context for the next tokens."""
        self._settled = 0
        """Number of tokens whose text is final."""
        self._space = ""
        self._given = 0

    def add(self, token: int) -> str:
        """Takes the next token; returns the text that has become final."""
        self.tokens.append(token)
        end = len(self.tokens)
        while end > self._settled and self._joins_the_next(self.tokens[end - 1]):
            end -= 1
        text = self._decode(end)
        if text.endswith(_UNREADABLE):
            return ""
        text = text[len(self._decode(self._settled)) :]
        # Decoders drop a space at the beginning, so the context must contain visible text.
        self._start = self._settled if text.strip() else self._start
        self._settled = end
        text = self._space + text
        shown = text.rstrip() if self._given else text.strip()
        self._space = text[len(text.rstrip()) :]
        self._given += len(shown)
        return shown

    def finish(self) -> tuple[str, Answer]:
        """Returns the remaining text, and the whole answer."""
        [answer] = read_answers(self._template, [self.tokens])
        return answer.text[self._given :], answer

    def _joins_the_next(self, token: int) -> bool:
        """Whether a token is one byte of a character, or invisible, so bytes may surround it."""
        spelled = self._template.tokenizer.convert_ids_to_tokens(token)
        return token in self._special or _BYTE.fullmatch(str(spelled)) is not None

    def _decode(self, end: int) -> str:
        tokens = self.tokens[self._start : end]
        return str(
            self._template.tokenizer.decode(
                tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )


class Engine:
    """Owns a model, and the only thread that computes with it; without `adapter`, as its base.

    `detector` scores prompts that come as messages.
    """

    def __init__(
        self,
        model: Any,
        template: ChatTemplate,
        limits: Limits,
        *,
        adapter: bool = True,
        detector: Detector | None = None,
    ) -> None:
        self.limits = limits
        self._detector = detector
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
        """Makes the model ready; raises the error that prevents it from answering."""
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._closed

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def submit(self, asked: Asked, tell: Tell) -> Job:
        """Adds a request to the queue; `tell` gets a streamed answer's pieces, then its end.

        Raises:
            Refusal: If the queue is full, or the server is shutting down.
        """
        job = Job(asked, tell)
        with self._changed:
            if not self.alive:
                raise _closed()
            if len(self._waiting) >= self.limits.waiting:
                raise Refusal(429, "busy", "too many requests are waiting; try again later")
            self._waiting.append(job)
            self._changed.notify()
        return job

    def cancel(self, job: Job) -> None:
        """Removes a request from the queue, or ends it at its next token."""
        job.cancelled.set()
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)

    def close(self) -> None:
        """Ends the thread and refuses the waiting requests."""
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
            # The message may quote the prompt, which must not be logged.
            _log.error("a request failed: %s", type(error).__name__)
            job.tell(Refusal(500, "failed", f"answering failed: {type(error).__name__}"))

    def _answer(self, job: Job, stream: Stream) -> None:
        prompt = self._rendered(job.asked)
        answer = GrowingAnswer(self._template)
        for token in stream(prompt, self._new_tokens(job.asked, len(prompt))):
            if job.cancelled.is_set() or self._closed:
                job.tell(_closed())
                return
            if not job.asked.streams:  # finish() decodes it once
                answer.tokens.append(token)
            elif text := answer.add(token):
                job.tell(text)
        rest, whole = answer.finish()
        detection = self._detected(job.asked)
        job.tell(Finished(rest, whole, len(prompt), len(answer.tokens), detection))

    def _detected(self, asked: Asked) -> dict[str, Any] | None:
        prompt = asked.prompt
        if self._detector is None or isinstance(prompt, list):
            return None
        try:
            found = self._detector.of(self._model, *prompt)
        except Exception as error:  # the answer is whole; it must not be lost with its score
            _log.warning("the detector failed: %s", type(error).__name__)
            return None
        return found.as_dict() if found else None

    def _rendered(self, asked: Asked) -> list[int]:
        prompt = asked.prompt
        if isinstance(prompt, list):
            if not all(0 <= token < self._tokens for token in prompt):
                raise Refusal(400, "invalid_request", f"prompt: ids are 0 to {self._tokens - 1}")
        else:
            try:
                prompt = self._template.encode_prompt(*prompt)
            except DataError as error:
                # In a request the spans are its messages.
                defects = [re.sub(r"^spans\b", "messages", defect) for defect in error.defects]
                raise Refusal(400, "invalid_request", "; ".join(defects)) from None
        if len(prompt) > self.limits.prompt_tokens:
            most = self.limits.prompt_tokens
            message = f"the prompt has {len(prompt)} tokens; the maximum is {most}"
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
