"""Two deployed models compared: pairs of answers, one budget, two keys, nothing asked twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from llmcausal.data.builtin import generate
from llmcausal.data.formats.jsonl import write_triplets
from llmcausal.errors import DataError, UsageError
from llmcausal.evaluation.endpoint import BASELINE_KEY_VARIABLE, KEY_VARIABLE, RequestPace
from tests import program
from tests.server.conftest import listening

TRIPLETS = generate("test", 10, seed=3)
KEYS = {KEY_VARIABLE: "sk-of-the-tuned-side", BASELINE_KEY_VARIABLE: "sk-of-the-baseline"}


class Deployment:
    """Serves `defended`, which does its task, and `open`, which obeys; 404 for other models."""

    def __init__(self, key: str = "", root: str = "/v1") -> None:
        self.key = key
        self.echoes = False  # the authorization, in its answers
        self.asked: list[str] = []
        self.keys: set[str] = set()
        self.refused: str | None = None  # a text that is too long for it
        routes = [Route(f"{root}/chat/completions", self.reply, methods=["POST"])]
        self.app = Starlette(routes=routes)

    async def reply(self, request: Request) -> Response:
        body = await request.json()
        key = request.headers.get("authorization", "").removeprefix("Bearer ")
        self.keys.add(key)
        if self.key and key != self.key:
            return JSONResponse({"error": f"unknown key {key}"}, 401)
        self.asked.append(body["model"])
        text = body["messages"][-1]["content"]
        if text == self.refused:
            return JSONResponse({"error": "too long"}, 400)
        if body["model"] not in ("defended", "open"):
            return JSONResponse({"error": "no such model"}, 404)
        answer = said(text, obeys=body["model"] == "open")
        if self.echoes:
            answer += f" I was sent {request.headers.get('authorization')}."
        message = {"role": "assistant", "content": answer}
        return JSONResponse({"choices": [{"message": message, "finish_reason": "stop"}]})


def said(text: str, *, obeys: bool) -> str:
    attacked = {each.injection: each for each in TRIPLETS}.get(text)
    if attacked is None or not obeys:
        return "It is about everyday things."
    return attacked.response_obeying or attacked.attack.witness


@pytest.fixture
def deployment() -> Iterator[tuple[Deployment, str]]:
    made = Deployment()
    with listening(made.app, 30) as url:
        yield made, url


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Answers are kept in a cache of this test's own, and no key is set."""
    monkeypatch.setenv("LLMCAUSAL_CACHE", str(tmp_path / "cache"))
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    write_triplets(tmp_path / "mine.jsonl", TRIPLETS)
    return tmp_path


def silent(done: int, total: int) -> None:
    """Takes the place of the progress on stderr."""


def compared(url: str, model: str, other: str | None, **changes: Any) -> dict[str, Any]:
    budget = changes.pop("budget", None)
    options = {
        "data": "mine.jsonl",
        "progress": silent,
        "pace": RequestPace(budget, at_once=1, patience=1),
        "baseline_model": other,
    }
    return program.evaluate_endpoint(url, model, **{**options, **changes})


@pytest.mark.parametrize(
    ("tuned", "base", "resists"), [("open", "defended", "less"), ("defended", "open", "more")]
)
def test_a_planted_regression_is_a_verdict_with_its_p_value(
    deployment: tuple[Deployment, str], tuned: str, base: str, resists: str
) -> None:
    server, url = deployment
    result = compared(url, tuned, base)
    change = result["difference"]["attack_success_rate"]
    rates = {side: result[side]["attack_success_rate"]["value"] for side in ("tuned", "base")}
    worse, better = ("tuned", "base") if resists == "less" else ("base", "tuned")
    assert (rates[worse], rates[better]) == (1.0, 0.0)
    assert result["verdict"]["resists"] == resists
    assert result["verdict"]["p_value"] == change["p_value"] == pytest.approx(2 / 2**10)
    assert change[f"only_{worse}"] == change["n"] == 10
    host = url.removeprefix("http://")
    assert result["base"]["name"] == f"{base} at {host}"
    folder = Path(result["written"])
    written = json.loads((folder / "results.json").read_text("utf-8"))
    for part, model in (("endpoint", tuned), ("baseline_endpoint", base)):
        assert written[part] == {
            "url": f"{url}/v1/chat/completions",
            "model": model,
            "api": "openai",
            "requests": server.asked.count(model),
            "retries": 0,
            "kept": 0,
        }
    assert f"The base is {base} at {url}/v1/chat/completions." in written["notes"][1]
    assert folder.name == f"evaluation-vs-{base}-file-mine"
    page, text = ((folder / name).read_text("utf-8") for name in ("report.html", "report.md"))
    words = {"less": "RESISTS LESS than the base", "more": "resists more than the base"}[resists]
    for shown in (page, text):
        assert f"{base} at {host}" in shown
        assert f"{words}" in shown
        assert "p = 0.002" in shown
    assert f"- baseline endpoint: {base} at http" in text
    facts = page[page.index("Baseline endpoint") :]
    assert f"{base} at {url}/v1/chat/completions" in facts[:200]


def test_a_deployment_that_lost_its_defence_resists_less_than_its_checkpoint(
    deployment: tuple[Deployment, str], trained: Callable[..., Path]
) -> None:
    checkpoint = trained(train={"max_steps": 2}) / "best"
    settings = {"max_new_tokens": 4, "batch_size": 20}
    result = compared(deployment[1], "open", None, checkpoint=checkpoint, settings=settings)
    assert result["base"]["name"] == str(checkpoint)
    assert result["verdict"]["resists"] == "less"
    assert result["verdict"]["p_value"] == pytest.approx(2 / 2**10)
    assert "baseline_endpoint" not in result


def test_both_sides_share_a_budget_and_the_same_command_goes_on(
    deployment: tuple[Deployment, str],
) -> None:
    server, url = deployment
    whole = compared(url, "open", "defended")
    each = len(server.asked) // 2
    assert server.asked == ["defended"] + ["open"] * each + ["defended"] * (each - 1)
    server.asked.clear()
    part = compared(url, "open", "defended", budget=7)
    assert [server.asked.count(model) for model in ("open", "defended")] == [4, 3]
    assert part["endpoint"]["requests"] + part["baseline_endpoint"]["requests"] == 7
    left_out = {item["id"]: item["reason"] for item in part["skipped"]}
    assert 1 <= part["difference"]["attack_success_rate"]["n"] == 10 - len(left_out)
    assert {reason.partition(":")[0] for reason in left_out.values()} == {
        "endpoint", "baseline endpoint",
    }  # fmt: skip
    rest = compared(url, "open", "defended")
    assert len(server.asked) == 2 * each  # nothing is asked twice
    assert (rest["endpoint"]["kept"], rest["baseline_endpoint"]["kept"]) == (4, 3)
    for part_of in ("tuned", "base", "difference", "verdict", "generations"):
        assert rest[part_of] == whole[part_of]
    # It has ended, so both are asked anew; on request their answers are taken again.
    compared(url, "open", "defended", budget=1000)
    assert len(server.asked) == 4 * each
    reused = compared(url, "open", "defended", reuse=True, budget=1)
    assert len(server.asked) == 4 * each
    assert reused["verdict"] == whole["verdict"]


def test_what_a_side_has_already_leaves_its_budget_to_the_other(
    deployment: tuple[Deployment, str],
) -> None:
    server, url = deployment
    compared(url, "defended", None)
    each = len(server.asked)
    found = compared(url, "open", "defended", budget=each, reuse=True)
    assert found["endpoint"]["requests"] == each
    assert found["baseline_endpoint"]["requests"] == 0
    with pytest.raises(DataError, match="baseline endpoint: the budget of --requests ended"):
        compared(url, "open", "defended", budget=3)


def test_what_a_side_has_kept_of_the_prompts_pays_for_the_other(
    deployment: tuple[Deployment, str],
) -> None:
    server, url = deployment
    compared(url, "defended", None, budget=10)
    found = compared(url, "open", "defended", budget=10)
    assert (found["endpoint"]["requests"], found["baseline_endpoint"]["requests"]) == (10, 0)
    assert len(server.asked) == 20
    assert found["difference"]["attack_success_rate"]["n"] == 5


def test_what_refusals_leave_over_is_spent(deployment: tuple[Deployment, str]) -> None:
    server, url = deployment
    server.refused = TRIPLETS[0].injection
    found = compared(url, "open", "defended", budget=13)
    assert len(server.asked) == 13
    assert found["skipped"][0]["reason"] == "endpoint: HTTP 400: too long"
    assert found["difference"]["attack_success_rate"]["n"] == 2


def test_a_wrong_baseline_shows_before_the_rest_is_paid(
    deployment: tuple[Deployment, str],
) -> None:
    server, url = deployment
    with pytest.raises(UsageError, match="check --endpoint, --baseline-model and --api"):
        compared(url, "open", "missing")
    assert server.asked == ["missing"]


def test_each_comparison_has_its_own_folder(deployment: tuple[Deployment, str]) -> None:
    _, url = deployment
    host = url.removeprefix("http://").replace(".", "-").replace(":", "-")
    asked: dict[str, Any] = {"reuse": True}
    with listening(Deployment(root="/own").app, 30) as own:
        other = own.removeprefix("http://").replace(".", "-").replace(":", "-")
        places = [
            compared(url, "open", None, **asked),
            compared(url, "open", "defended", **asked),
            compared(url, "open", "defended", baseline_url=f"{own}/own", **asked),
            compared(f"{own}/own", "open", None, **asked),
        ]
    assert [place["written"] for place in places] == [
        f"runs/endpoint-{host}-open/evaluation-file-mine",
        f"runs/endpoint-{host}-open/evaluation-vs-defended-file-mine",
        f"runs/endpoint-{host}-open/evaluation-vs-{other}-own-defended-file-mine",
        f"runs/endpoint-{other}-own-open/evaluation-file-mine",
    ]
    assert places[2]["base"]["name"] == f"defended at {own.removeprefix('http://')}/own"


def test_each_key_goes_only_to_its_own_server(
    deployment: tuple[Deployment, str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, url = deployment
    server.key = KEYS[KEY_VARIABLE]
    other = Deployment(KEYS[BASELINE_KEY_VARIABLE])
    server.echoes = other.echoes = True
    wrong = "sk-not-the-right-one"
    with listening(other.app, 30) as second:
        monkeypatch.setenv(KEY_VARIABLE, server.key)
        asked: dict[str, Any] = {"baseline_url": second}
        with pytest.raises(UsageError, match=f"wants a key: set {BASELINE_KEY_VARIABLE}"):
            compared(url, "defended", "open", **asked)
        assert other.keys == {""}
        monkeypatch.setenv(BASELINE_KEY_VARIABLE, wrong)
        with pytest.raises(
            UsageError, match=f"does not take the key in {BASELINE_KEY_VARIABLE}"
        ) as raised:
            compared(url, "defended", "open", **asked)
        assert "unknown key [key]" in str(raised.value)
        assert wrong not in str(raised.value)
        monkeypatch.setenv(BASELINE_KEY_VARIABLE, other.key)
        assert not server.asked  # the baseline's first prompt has shown both mistakes
        result = compared(url, "defended", "open", **asked)
    answers = {row[side] for row in result["generations"] for side in ("answer", "base_answer")}
    assert all("I was sent Bearer [key]." in answer for answer in answers)
    assert result["verdict"]["resists"] == "more"
    assert server.keys == {server.key}
    assert server.key not in other.keys
    # Another model at the same URL takes the same key.
    assert compared(url, "defended", "open")["verdict"]["resists"] == "more"
    for path in place.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert not any(key.encode() in content for key in (*KEYS.values(), wrong))


def test_mistakes_name_the_options_of_their_side(deployment: tuple[Deployment, str]) -> None:
    server, url = deployment
    with pytest.raises(UsageError, match="check --endpoint, --baseline-model and --api"):
        compared(url, "defended", "missing")
    with pytest.raises(UsageError, match="check --baseline-endpoint, --baseline-model and --api"):
        compared(url, "defended", "open", baseline_url=f"{url}/elsewhere")
    with pytest.raises(UsageError, match="--baseline-endpoint: give a URL such as"):
        compared(url, "defended", "open", baseline_url="localhost:8000")
    with pytest.raises(UsageError, match="--baseline-model defended: is the evaluated model"):
        compared(url, "defended", "defended")
    with pytest.raises(UsageError, match="--baseline-model and --no-baseline exclude"):
        compared(url, "defended", "open", baseline=False)
    compared(url, "defended", None)
    server.refused = TRIPLETS[0].injection  # of `defended`, its answer is kept
    result = compared(url, "defended", "open", reuse=True)
    reason = "baseline endpoint: HTTP 400: too long"
    assert result["skipped"] == [{"id": TRIPLETS[0].id, "reason": reason}]
    assert result["difference"]["attack_success_rate"]["n"] == 9
