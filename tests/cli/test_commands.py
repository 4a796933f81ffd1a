"""What each command passes on to the program, and what it prints."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from llmcausal import assembly
from llmcausal.cli import app
from llmcausal.evaluation.adaptive import AdaptiveRequest


class Recorder:
    """Stands in for one function of the assembly; keeps its arguments."""

    def __init__(self, result: Any = None) -> None:
        self.result = result
        self.arguments: tuple[Any, ...] = ()
        self.options: dict[str, Any] = {}

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.arguments, self.options = arguments, options
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
    monkeypatch.setattr(assembly, "train", train)
    folder = tmp_path / "2024"
    assert (
        _run(
            monkeypatch,
            *("train", "demo-cpu", "--set", "train.epochs=2", "--set", "lora.rank=4"),
            *("--output-dir", str(folder), "--plain"),
        )
        == 0
    )
    (config,) = train.arguments
    assert (config.train.epochs, config.lora.rank) == (2, 4)
    assert config.run_dir == folder / "demo-cpu"
    assert train.options == {"plain": True, "debug": False}


def test_a_bad_setting_never_reaches_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    train = Recorder()
    monkeypatch.setattr(assembly, "train", train)
    assert _run(monkeypatch, "train", "demo-cpu", "--set", "lora.rank=0") == 2
    assert train.arguments == ()


def test_resume_passes_its_target(monkeypatch: pytest.MonkeyPatch) -> None:
    resume = Recorder()
    monkeypatch.setattr(assembly, "resume", resume)
    assert _run(monkeypatch, "resume", "runs/x") == 0
    assert resume.arguments == (Path("runs/x"),)
    assert resume.options == {"plain": False, "allow_changes": False}
    assert _run(monkeypatch, "resume", "runs/x", "--plain", "--allow-changes") == 0
    assert resume.options == {"plain": True, "allow_changes": True}


def test_eval_prints_one_json_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = {"tuned": {"utility": {"value": 0.5}}, "name": "Grüße [bold]"}
    evaluate = Recorder(result)
    monkeypatch.setattr(assembly, "evaluate", evaluate)
    arguments = ("eval", "--checkpoint", "best", "--data", "f.jsonl", "--suite", "s")
    assert _run(monkeypatch, *arguments, "--no-baseline", "--json") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == result
    assert "a library prints something" in shown.err
    assert evaluate.arguments == (Path("best"),)
    assert evaluate.options == {
        "data": "f.jsonl",
        "suite": "s",
        "baseline": False,
        "reads": True,
        "trust_remote_code": False,
        "against": None,
        "settings": dict.fromkeys(("max_samples", "batch_size", "max_new_tokens", "attacks")),
        "adaptive": None,
        "out": None,
    }


def test_eval_passes_numbers_and_folders_and_tells_where_the_report_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    evaluate = Recorder({"tuned": {}, "base": None, "report": str(tmp_path / "out.html")})
    monkeypatch.setattr(assembly, "evaluate", evaluate)
    options = ("--against", "task", "--max-samples", "5", "--batch-size", "2", "--out", "out")
    options += ("--adaptive", "3", "--adaptive-steps", "7", "--adaptive-search", "random")
    options += ("--adaptive-samples", "2", "--adaptive-from", "earlier")
    assert _run(monkeypatch, "eval", "--checkpoint", "best", *options) == 0
    assert f"report: {tmp_path / 'out.html'}" in capsys.readouterr().out
    assert evaluate.options["adaptive"] == AdaptiveRequest(
        3, 7, search="random", samples=2, earlier=Path("earlier")
    )
    assert (evaluate.options["against"], evaluate.options["out"]) == (Path("task"), Path("out"))
    assert evaluate.options["settings"] == {
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
    monkeypatch.setattr(assembly, "evaluate_endpoint", evaluate)
    options = ("--checkpoint", "best", "--api", "completions", "--tokenizer", "gguf", "--reuse")
    options += ("--requests", "9", "--concurrency", "2", "--timeout", "3", "--patience", "4")
    options += ("--max-samples", "5", "--suite", "sep", "--no-baseline")
    assert _run(monkeypatch, "eval", "--endpoint", "http://x/v1", "--model", "m", *options) == 0
    assert evaluate.arguments == ("http://x/v1", "m")
    settings = dict.fromkeys(("batch_size", "max_new_tokens", "attacks"))
    assert evaluate.options == {
        "api": "completions",
        "tokenizer": "gguf",
        "checkpoint": Path("best"),
        "pace": RequestPace(9, 2, 3, 4),
        "reuse": True,
        "data": None,
        "suite": "sep",
        "baseline": False,
        "trust_remote_code": False,
        "settings": {"max_samples": 5, **settings},
        "out": None,
    }


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "give --checkpoint DIR, or --endpoint URL"),
        (("--endpoint", "http://x"), "--endpoint needs --model NAME"),
        (("--endpoint", "u", "--model", "m", "--adaptive", "3"), "--adaptive does not go with"),
        (("--endpoint", "u", "--model", "m", "--adaptive-from", "x"), "--adaptive-from does not"),
        (("--endpoint", "u", "--model", "m", "--against", "b"), "--against does not go with"),
        (("--endpoint", "u", "--model", "m", "--num-processes", "2"), "--num-processes does not"),
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
    monkeypatch.setattr(assembly, "serve", serve)
    assert _run(monkeypatch, "serve", "--checkpoint", "best") == 0
    started = serve.options.pop("started")
    assert serve.arguments == (Path("best"),)
    assert serve.options == {
        "host": "127.0.0.1",
        "port": 8000,
        "base": False,
        "name": None,
        "limits": Limits(),
        "trust_remote_code": False,
    }
    started("http://127.0.0.1:8000", "demo")
    assert "demo is served at http://127.0.0.1:8000/v1" in capsys.readouterr().err
    options = ("--host", "::1", "--port", "0", "--base", "--name", "n", "--max-prompt-tokens", "1")
    options += ("--max-tokens", "2", "--max-body", "3", "--queue", "4", "--client-timeout", "5")
    assert _run(monkeypatch, "serve", "--checkpoint", "best", *options) == 0
    assert serve.options["limits"] == Limits(3, 1, 2, 4, 5.0)
    assert (serve.options["host"], serve.options["base"], serve.options["name"]) == (
        "::1",
        True,
        "n",
    )


def test_eval_help_lists_the_suites(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert _run(monkeypatch, "eval", "--help") == 0
    shown = capsys.readouterr().out
    assert "builtin, natural, file, bipia, alpaca_farm, injecagent, sep" in shown
