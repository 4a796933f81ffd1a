"""Asking an endpoint: failures are repeated, the budget is kept, nothing is asked twice."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from llmcausal.data.spans import Span
from llmcausal.errors import EndpointError, LlmcausalError, UsageError
from llmcausal.evaluation import endpoint as client_module
from llmcausal.evaluation.answer_store import AnswerStore
from llmcausal.evaluation.endpoint import (
    RESUMED_WITHIN_SECONDS,
    Api,
    Asker,
    Chat,
    Completions,
    Endpoint,
    KeptAnswers,
    Ollama,
    Replies,
    RequestPace,
)
from tests.server.conftest import listening

PROMPTS = [("Be brief.", f"text {number}") for number in range(12)]
KEY = "sk-very-secret-key"
Answering = Callable[[Any, int], Any]


def said(body: Any) -> Response:
    """The right answer to a chat request: its text, backwards."""
    text = body["messages"][-1]["content"][::-1]
    message = {"role": "assistant", "content": f" {text}\n"}
    return JSONResponse({"choices": [{"message": message, "finish_reason": "stop"}]})


def failed(status: int, text: str = "no", **headers: str) -> Response:
    return JSONResponse({"error": {"message": text}}, status, headers)


class Server:
    """A scripted endpoint: `answering(body, number)` makes the reply to the number-th request."""

    def __init__(self, answering: Answering) -> None:
        self.answering = answering
        self.requests: list[Any] = []
        self.headers: list[Any] = []
        self.at_once = 0
        self.most_at_once = 0
        paths = ("/v1/chat/completions", "/v1/completions", "/api/chat", "/own/chat/completions")
        self.app = Starlette(routes=[Route(path, self.reply, methods=["POST"]) for path in paths])

    async def reply(self, request: Request) -> Response:
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            body = await request.json()
            self.headers.append(request.headers)
            self.requests.append(body)
            made = self.answering(body, len(self.requests))
            found: Response = await made if asyncio.iscoroutine(made) else made
            return found
        finally:
            self.at_once -= 1


@pytest.fixture
def start() -> Iterator[Callable[[Answering], tuple[Server, str]]]:
    """Starts a scripted endpoint: `start(answering)` returns it with its URL."""
    with ExitStack() as stack:

        def begin(answering: Answering = lambda body, _: said(body)) -> tuple[Server, str]:
            server = Server(answering)
            return server, stack.enter_context(listening(server.app, 30))

        yield begin


def ask(url: str, count: int = 4, **changes: Any) -> Replies:
    given: dict[str, Any] = {"api": Chat(), "key": "", "kept": None, "progress": None, **changes}
    kept = given["kept"] or KeptAnswers(None, "", finished=False)
    names = ("requests", "at_once", "timeout", "patience", "first_wait")
    pace = {"patience": 20, "first_wait": 0.01, "longest_wait": 0.05}
    pace |= {name: changes[name] for name in names if name in changes}
    endpoint = Endpoint(url, "m", given["api"], given["key"])
    asker = Asker(endpoint, RequestPace(**pace), kept, 7)  # type: ignore[arg-type]
    return asker.ask(PROMPTS[:count], given["progress"])


def right(replies: Replies, count: int = 4) -> bool:
    texts = {prompt: answer.text for prompt, answer in replies.answers.items()}
    return texts == {prompt: prompt[1][::-1] for prompt in PROMPTS[:count]}


def test_every_api_is_asked_in_its_own_form(start: Any, template: Any) -> None:
    def answering(body: Any, number: int) -> Response:
        if "options" in body:
            message = {"role": "assistant", "content": " one "}
            return JSONResponse({"message": message, "done_reason": "length", "done": True})
        if "prompt" in body:
            return JSONResponse({"choices": [{"text": "two", "finish_reason": "stop"}]})
        message = {"role": "assistant", "content": None}
        return JSONResponse({"choices": [{"message": message, "finish_reason": "length"}]})

    server, url = start(answering)
    apis: tuple[Api, ...] = (Ollama(), Completions(template), Chat())
    found = [next(iter(ask(url, 1, api=api).answers.values())) for api in apis]
    assert [(answer.text, answer.stopped) for answer in found] == [
        ("one", False),
        ("two", True),
        ("", False),
    ]
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "text 0"},
    ]
    assert server.requests == [
        {
            "model": "m",
            "messages": messages,
            "stream": False,
            "options": {"temperature": 0, "num_predict": 7},
        },
        {
            "model": "m",
            "prompt": template.encode_prompt(*PROMPTS[0]),
            "max_tokens": 7,
            "temperature": 0,
        },
        {"model": "m", "messages": messages, "max_tokens": 7, "temperature": 0},
    ]
    assert right(ask(f"{url}/own/", 1), 1) is False  # a path of its own is kept
    assert len(server.requests) == 4


def test_spans_are_messages_of_their_roles(template: Any) -> None:
    spans = (Span("Who?", trusted=True), Span("I look.", "assistant", True), Span("Ann", "tool"))
    body = Chat().body(("Be brief.", spans), "m", 7)
    assert [(each["role"], each["content"]) for each in body["messages"]] == [
        ("system", "Be brief."),
        ("user", "Who?"),
        ("assistant", "I look."),
        ("tool", "Ann"),
    ]
    body = Completions(template).body(("Be brief.", spans), "m", 7)
    assert body["prompt"] == template.encode_prompt("Be brief.", spans)


def test_answers_to_spans_are_kept_too(start: Any, tmp_path: Path) -> None:
    server, url = start(lambda body, _: said(body))
    prompts: Any = [("s", (Span("a", "tool"),)), ("s", (Span("b", "tool"),))]
    for kept in (KeptAnswers(AnswerStore(tmp_path), "x", finished=False) for _ in range(2)):
        asker = Asker(Endpoint(url, "m", Chat(), ""), RequestPace(patience=20), kept, 7)
        assert set(asker.ask(prompts).answers) == set(prompts)
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 529])
def test_what_passes_is_repeated(start: Any, status: int, caplog: pytest.LogCaptureFixture) -> None:
    server, url = start(lambda body, n: failed(status, "later") if n % 3 else said(body))
    replies = ask(url)
    assert right(replies)
    assert replies.requests == len(server.requests)
    assert replies.retries == replies.requests - 4 >= 8
    assert "later; trying again" in caplog.text
    assert len(caplog.messages) <= 4


def test_an_answer_that_takes_too_long_is_asked_for_again(start: Any) -> None:
    async def slow(body: Any) -> Response:
        async def dripping() -> Any:
            while True:
                yield b" "
                await asyncio.sleep(0.02)

        return StreamingResponse(dripping())

    _, url = start(lambda body, n: slow(body) if n <= 2 else said(body))
    replies = ask(url, 2, timeout=0.4)
    assert right(replies, 2)
    assert (replies.requests, replies.retries) == (4, 2)


def test_it_waits_as_long_as_it_is_asked_to(start: Any) -> None:
    replies: list[float] = []

    def answering(body: Any, number: int) -> Response:
        replies.append(time.monotonic())
        return failed(429, **{"retry-after": "1"}) if number == 1 else said(body)

    _, url = start(answering)
    assert right(ask(url, 1), 1)
    assert replies[1] - replies[0] >= 0.95


def test_requests_run_at_the_same_time_but_no_more_than_asked_for(start: Any) -> None:
    async def waiting(body: Any) -> Response:
        await asyncio.sleep(0.1)
        return said(body)

    server, url = start(lambda body, _: waiting(body))
    assert right(ask(url, 12, at_once=3), 12)
    assert server.most_at_once == 3


def test_the_budget_is_kept_repeated_requests_included(start: Any) -> None:
    server, url = start(lambda body, n: failed(500) if n % 2 else said(body))
    replies = ask(url, 12, requests=7, at_once=2)
    assert len(server.requests) == replies.requests == 7
    assert 1 <= len(replies.answers) <= 3
    assert replies.refused == {}
    assert ask(url, 1, requests=1000).requests <= 2


def test_what_was_answered_is_not_asked_again_until_the_evaluation_ends(
    start: Any, tmp_path: Path
) -> None:
    store = AnswerStore(tmp_path)
    _, url = start()

    def kept(*, finished: bool = False, identity: str = "a") -> KeptAnswers:
        return KeptAnswers(store, identity, finished=finished)

    seen: list[tuple[int, int]] = []
    assert ask(url, 12, requests=5, kept=kept()).requests == 5
    again = ask(url, 12, kept=kept(), progress=lambda *at: seen.append(at))
    assert right(again, 12)
    assert (again.requests, again.kept, seen[0], seen[-1]) == (7, 5, (5, 12), (12, 12))
    assert ask(url, 12, kept=kept(identity="b")).requests == 12
    ended = kept()
    assert ask(url, 12, kept=ended).requests == 0
    ended.finish()
    assert ask(url, 12, requests=3, kept=kept()).kept == 0
    assert ask(url, 12, kept=kept()).kept == 3
    assert ask(url, 12, kept=kept(finished=True)).kept == 12


def test_kept_answers_grow_old(start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, url = start()
    store = AnswerStore(tmp_path)
    ask(url, kept=KeptAnswers(store, "", finished=False))
    later = time.time() + RESUMED_WITHIN_SECONDS + 60
    monkeypatch.setattr(client_module.KeptAnswers.__module__ + ".time.time", lambda: later)
    assert ask(url, kept=KeptAnswers(store, "", finished=False)).kept == 0


def test_damaged_files_of_answers_are_passed_over(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path)
    KeptAnswers(store, "", finished=True).finish()
    (path,) = tmp_path.glob("endpoint-*.jsonl")
    rows = [{"a": 1}, {"b": {"text": 3, "stopped": True, "at": 1}}, [], {"c": {"text": "x"}}]
    path.write_text("\n".join(map(json.dumps, rows)) + '\n{"d": {"te', encoding="utf-8")
    assert KeptAnswers(store, "", finished=True).get(PROMPTS[0], 7) is None


def test_a_prompt_that_is_not_taken_is_left_out(start: Any) -> None:
    def answering(body: Any, number: int) -> Response:
        return failed(400, "too  long\n") if "text 1" in str(body) else said(body)

    _, url = start(answering)
    replies = ask(url)
    assert replies.refused == {PROMPTS[1]: "HTTP 400: too long"}
    assert len(replies.answers) == 3


def test_a_prompt_that_always_fails_does_not_end_the_evaluation(start: Any) -> None:
    _, url = start(lambda body, n: failed(500) if "text 1" in str(body) else said(body))
    replies = ask(url, 10, patience=0.2)
    assert list(replies.refused) == [PROMPTS[1]]
    assert "HTTP 500: no" in replies.refused[PROMPTS[1]]
    assert len(replies.answers) == 9


@pytest.mark.parametrize(
    ("reply", "error", "says"),
    [
        (failed(401), UsageError, "does not take the key in LLMCAUSAL_ENDPOINT_KEY"),
        (failed(403), UsageError, "LLMCAUSAL_ENDPOINT_KEY"),
        (failed(404, "no model m"), UsageError, "no model m; check --endpoint, --model"),
        (Response(status_code=302, headers={"location": "http://x/"}), EndpointError, "HTTP 302"),
        (failed(500), EndpointError, "HTTP 500: no, "),
        (failed(429, "quota"), EndpointError, "quota, "),
        (failed(422, "unknown field"), EndpointError, "answers no prompt: HTTP 422: unknown field"),
        (Response("<html>Hi</html>"), EndpointError, "<html>Hi"),
        (JSONResponse({"choices": []}), EndpointError, "another form than --api expects"),
        (JSONResponse({"choices": [{"message": {"content": 3}, "finish_reason": "stop"}]}),
         EndpointError, "another form"),
        (Response(b"[" * 100_000), EndpointError, "RecursionError"),
        (Response(b"x" * (client_module.MAX_REPLY_BYTES + 1)), EndpointError, "is larger than"),
    ],
)  # fmt: skip
def test_what_does_not_pass_ends_it(
    start: Any, reply: Response, error: type[LlmcausalError], says: str
) -> None:
    server, url = start(lambda *_: reply)
    with pytest.raises(error) as raised:
        ask(url, 12, patience=0.2, key=KEY)
    assert says in str(raised.value)
    assert url in str(raised.value) or "larger" in says
    assert len(server.requests) <= 80


def test_half_of_a_character_is_sent_as_it_is(start: Any) -> None:
    server, url = start(lambda body, _: failed(400, "bad text"))
    kept = KeptAnswers(None, "", finished=False)
    prompt = ("Be brief.", "\ud800")
    replies = Asker(Endpoint(url, "m", Chat()), RequestPace(), kept, 7).ask([prompt])
    assert replies.refused == {prompt: "HTTP 400: bad text"}
    assert server.requests[0]["messages"][1]["content"] == "\ud800"


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_AT_FIRST_SECONDS", 0.2)
    began = time.monotonic()
    with pytest.raises(EndpointError, match=r"127\.0\.0\.1:9/.*: cannot connect: "):
        ask("http://127.0.0.1:9", patience=300)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("localhost:8000", "give a URL such as"),
        ("ftp://x/v1", "give a URL such as"),
        ("http://", "give a URL such as"),
        ("http://user:pass@x/v1", "would get into reports"),  # pragma: allowlist secret
        ("http://x/v1?api-key=abc", "would get into reports"),
        ("http://x:99999/", "give a URL such as"),
    ],
)
def test_urls_that_cannot_be_used(url: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as raised:
        Endpoint(url, "m", Chat())
    assert "pass" not in str(raised.value).replace("password", "")


@pytest.mark.parametrize("key", ["5h0rt", "with\nline break", "schlüssel-lang"])
def test_keys_that_cannot_be_used(key: str) -> None:
    with pytest.raises(UsageError, match="LLMCAUSAL_ENDPOINT_KEY") as raised:
        Endpoint("http://x", "m", Chat(), key)
    assert key not in str(raised.value)


def test_the_key_is_sent_and_is_in_no_text(
    start: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server repeats what it was sent, in answers and in errors of every kind."""
    caplog.set_level("DEBUG")

    def answering(body: Any, number: int) -> Response:
        if number == 1:
            return failed(500, f"your key {KEY} is fine")
        if "text 1" in str(body):
            return failed(400, "x" * (client_module._SHOWN - 6) + KEY)
        message = {"content": f"I was sent {KEY}."}
        return JSONResponse({"choices": [{"message": message, "finish_reason": "stop"}]})

    server, url = start(answering)
    kept = KeptAnswers(AnswerStore(tmp_path), "", finished=False)
    replies = ask(url, key=KEY, kept=kept, at_once=1)
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    assert {answer.text for answer in replies.answers.values()} == {"I was sent [key]."}
    written = "".join(path.read_text("utf-8") for path in tmp_path.iterdir())
    for text in (repr(replies), caplog.text, written, repr(Endpoint(url, "m", Chat(), KEY))):
        assert KEY[:6] not in text
    server.answering = lambda *_: failed(401, f"wrong key: {KEY}")
    with pytest.raises(UsageError, match=r"wrong key: \[key\]") as raised:
        ask(url, 1, key=KEY)
    assert KEY not in str(raised.value)
    server.answering = lambda *_: Response(f"<p>{KEY}")
    with pytest.raises(EndpointError) as odd:
        ask(url, 1, key=KEY)
    assert KEY not in str(odd.value)
