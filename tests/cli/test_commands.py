"""What each command passes on to the program, and what it prints."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from llmcausal.assembly import endpoint, evaluating, serving, training
from llmcausal.assembly.evaluating import EvaluationRequest
from llmcausal.assembly.training import ResumeRequest
from llmcausal.cli import app
from llmcausal.evaluation.adaptive import AdaptiveRequest


class Recorder:
    """Replaces one workflow; keeps its request."""

    def __init__(self, result: Any = None) -> None:
        self.result = result
        self.request: Any = None

    def __call__(self, request: Any) -> Any:
        self.request = request
        print("a library prints something")
        return self.result


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["llmcausal", *arguments])
    with pytest.raises(SystemExit) as stopped:
        app.main()
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def test_train_passes_the_resolved_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    train = Recorder()
    monkeypatch.setattr(training, "train", train)
    folder = tmp_path / "2024"
    assert (
        _run(
            monkeypatch,
            *("train", "demo-cpu", "--set", "train.epochs=2", "--set", "lora.rank=4"),
            *("--output-dir", str(folder), "--plain"),
        )
        == 0
    )
    config = train.request.config
    assert (config.train.epochs, config.lora.rank) == (2, 4)
    assert config.run_dir == folder / "demo-cpu"
    assert (train.request.plain, train.request.debug) == (True, False)


def test_a_bad_setting_never_reaches_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    train = Recorder()
    monkeypatch.setattr(training, "train", train)
    assert _run(monkeypatch, "train", "demo-cpu", "--set", "lora.rank=0") == 2
    assert train.request is None


def test_resume_passes_its_target(monkeypatch: pytest.MonkeyPatch) -> None:
    resume = Recorder()
    monkeypatch.setattr(training, "resume", resume)
    assert _run(monkeypatch, "resume", "runs/x") == 0
    assert resume.request == ResumeRequest(Path("runs/x"))
    assert _run(monkeypatch, "resume", "runs/x", "--plain", "--allow-changes") == 0
    assert resume.request == ResumeRequest(Path("runs/x"), plain=True, allow_changes=True)


def test_eval_prints_one_json_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = {"tuned": {"utility": {"value": 0.5}}, "name": "Grüße [bold]"}
    evaluate = Recorder(result)
    monkeypatch.setattr(evaluating, "evaluate_checkpoint", evaluate)
    arguments = ("eval", "--checkpoint", "best", "--data", "f.jsonl", "--suite", "s")
    assert _run(monkeypatch, *arguments, "--no-baseline", "--json") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == result
    assert "a library prints something" in shown.err
    settings = dict.fromkeys(("max_samples", "batch_size", "max_new_tokens", "attacks"))
    assert evaluate.request == EvaluationRequest(
        Path("best"), data="f.jsonl", suite="s", baseline=False, settings=settings
    )


def test_eval_passes_numbers_and_folders_and_tells_where_the_report_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    evaluate = Recorder({"tuned": {}, "base": None, "report": str(tmp_path / "out.html")})
    monkeypatch.setattr(evaluating, "evaluate_checkpoint", evaluate)
    options = ("--against", "task", "--max-samples", "5", "--batch-size", "2", "--out", "out")
    options += ("--adaptive", "3", "--adaptive-steps", "7", "--adaptive-search", "random")
    options += ("--adaptive-samples", "2", "--adaptive-from", "earlier")
    assert _run(monkeypatch, "eval", "--checkpoint", "best", *options) == 0
    assert f"report: {tmp_path / 'out.html'}" in capsys.readouterr().out
    assert evaluate.request.adaptive == AdaptiveRequest(
        3, 7, search="random", samples=2, earlier=Path("earlier")
    )
    assert (evaluate.request.against, evaluate.request.out) == (Path("task"), Path("out"))
    assert evaluate.request.settings == {
        "max_samples": 5,
        "batch_size": 2,
        "max_new_tokens": None,
        "attacks": None,
    }


def test_eval_refuses_an_earlier_attack_without_an_attack(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, "eval", "--checkpoint", "best", "--adaptive-from", "x") == 2
    assert "give --adaptive N too" in capsys.readouterr().err


def test_eval_of_an_endpoint_passes_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmcausal.evaluation.endpoint import RequestPace

    evaluate = Recorder({"tuned": {}, "base": None, "report": "r.html"})
    monkeypatch.setattr(endpoint, "evaluate_endpoint", evaluate)
    options = ("--checkpoint", "best", "--api", "completions", "--tokenizer", "gguf", "--reuse")
    options += ("--requests", "9", "--concurrency", "2", "--timeout", "3", "--patience", "4")
    options += ("--max-samples", "5", "--suite", "sep", "--no-baseline")
    options += ("--baseline-model", "b", "--baseline-endpoint", "http://y")
    assert _run(monkeypatch, "eval", "--endpoint", "http://x/v1", "--model", "m", *options) == 0
    settings = dict.fromkeys(("batch_size", "max_new_tokens", "attacks"))
    assert evaluate.request == endpoint.EndpointRequest(
        "http://x/v1",
        "m",
        api="completions",
        tokenizer="gguf",
        checkpoint=Path("best"),
        pace=RequestPace(9, 2, 3, 4),
        reuse=True,
        baseline_model="b",
        baseline_url="http://y",
        suite="sep",
        baseline=False,
        settings={"max_samples": 5, **settings},
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "give --checkpoint DIR, or --endpoint URL"),
        (("--endpoint", "http://x"), "--endpoint needs --model NAME"),
        (("--endpoint", "u", "--model", "m", "--adaptive", "3"), "--adaptive does not go with"),
        (("--endpoint", "u", "--model", "m", "--adaptive-from", "x"), "--adaptive-from does not"),
        (("--endpoint", "u", "--model", "m", "--against", "b"), "--against does not go with"),
        (("--endpoint", "u", "--model", "m", "--num-processes", "2"), "--num-processes does not"),
        (("--endpoint", "u", "--model", "m", "--baseline-endpoint", "v"), "needs --baseline-model"),
        (("--checkpoint", "b", "--baseline-model", "m"), "--baseline-model does not go without"),
        (("--checkpoint", "b", "--requests", "1"), "--requests does not go without --endpoint"),
        (("--checkpoint", "b", "--model", "m"), "--model does not go without --endpoint"),
    ],
)
def test_eval_refuses_what_does_not_go_together(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    says: str,
) -> None:
    assert _run(monkeypatch, "eval", *options) == 2
    assert says in capsys.readouterr().err


def test_serve_passes_its_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from llmcausal.server.engine import Limits

    serve = Recorder()
    monkeypatch.setattr(serving, "serve", serve)
    assert _run(monkeypatch, "serve", "--checkpoint", "best") == 0
    started = serve.request.started
    assert serve.request == serving.ServeRequest(Path("best"), started=started)
    started("http://127.0.0.1:8000", "demo")
    assert "demo is served at http://127.0.0.1:8000/v1" in capsys.readouterr().err
    options = ("--host", "::1", "--port", "0", "--base", "--name", "n", "--max-prompt-tokens", "1")
    options += ("--max-tokens", "2", "--max-body", "3", "--queue", "4", "--client-timeout", "5")
    assert _run(monkeypatch, "serve", "--checkpoint", "best", *options) == 0
    request = serve.request
    assert request.limits == Limits(3, 1, 2, 4, 5.0)
    assert (request.host, request.port, request.base, request.name) == ("::1", 0, True, "n")


def test_eval_help_lists_the_suites(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert _run(monkeypatch, "eval", "--help") == 0
    shown = capsys.readouterr().out
    assert "builtin, natural, file, bipia, alpaca_farm, injecagent, sep" in shown
