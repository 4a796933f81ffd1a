"""What `ablate` passes on, and how its table reads."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from llmcausal.assembly import ablation
from llmcausal.assembly.ablation import AblationRequest
from llmcausal.cli import app
from llmcausal.ui.tables import ablation_markdown, render_ablation


def share(value: float | None, low: float | None = None, high: float | None = None) -> Any:
    return {"value": value, "n": 100, "low": low, "high": high}


def row(label: str, seeds: list[float], **changes: Any) -> dict[str, Any]:
    mean = share(sum(seeds) / len(seeds), 0.1, 0.95)
    names = ("attack_success_rate", "utility", "utility_under_attack")
    return {
        "label": label,
        "settings": {},
        "seeds": [
            {**dict.fromkeys(names, value), "validation": {"val_task_loss": 0.5}} for value in seeds
        ],
        "failed": [],
        **dict.fromkeys(names, mean),
        "perplexity": 3.21,
        "perplexity_under_attack": None,
        "causal": {"representation": "projection", "causal_stability": 0.987},
        **changes,
    }


RESULT = {
    "folder": "runs/ablate-x",
    "rows": [
        row("untouched base", [0.6], causal={}),
        row("contrastive=[bold]a|b", [0.3, 0.5], failed=[{"seed": 2, "run": "r", "error": "nan"}]),
    ],
    "search": {"objective": "ASR", "best": "contrastive=a", "trials": [{}, {}]},
}


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[AblationRequest]:
    requests: list[AblationRequest] = []

    def ablate(request: AblationRequest) -> dict[str, Any]:
        requests.append(request)
        print("a library prints something")
        return RESULT

    monkeypatch.setattr(ablation, "ablate", ablate)
    return requests


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["llmcausal", "ablate", *arguments])
    with pytest.raises(SystemExit) as stopped:
        app.main()
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def test_everything_is_passed_on_and_json_is_alone_on_stdout(
    monkeypatch: pytest.MonkeyPatch,
    called: list[AblationRequest],
    capsys: pytest.CaptureFixture[str],
) -> None:
    vary = ["loss.lambda_robust=0,1", "lora.rank,lora.alpha=8:16,16:32"]
    arguments = ["demo-cpu", "--vary", vary[0], "--vary", vary[1], "--seeds", "3", "--trials", "5"]
    arguments += ["--set", "train.epochs=1", "--output-dir", "study", "--plain", "--json"]
    assert run(monkeypatch, *arguments) == 0
    assert called == [
        AblationRequest("demo-cpu", vary, ["train.epochs=1"], 3, 5, Path("study"), plain=True)
    ]
    assert json.loads(capsys.readouterr().out) == RESULT


def test_without_json_the_table_is_shown(
    monkeypatch: pytest.MonkeyPatch,
    called: list[AblationRequest],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, "demo-cpu", "--vary", "lora.rank=8,16") == 0
    out = capsys.readouterr().out
    assert "untouched base" in out
    assert "runs/ablate-x/ablation.md" in out


@pytest.mark.parametrize(
    "arguments", [["demo-cpu"], ["demo-cpu", "--vary", "lora.rank=8", "--seeds", "0"]]
)
def test_usage_errors(
    monkeypatch: pytest.MonkeyPatch, called: list[AblationRequest], arguments: list[str]
) -> None:
    assert run(monkeypatch, *arguments) == 2
    assert called == []


def test_an_unknown_setting_names_the_nearest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "demo-cpu", "--vary", "lora.r=8,16") == 2
    assert "did you mean lora.rank?" in capsys.readouterr().err


def test_the_table_shows_mean_interval_and_each_seed() -> None:
    target = Console(file=io.StringIO(), width=100, markup=False)
    target.print(render_ablation(RESULT))
    text = target.file.getvalue()  # type: ignore[attr-defined]
    for part in ("40.0%", "[10, 95]", "(30 50)", "stab. 0.987", "seed 2 failed", "[bold]a|b"):
        assert part in text, part


def test_markdown_escapes_what_would_break_its_table() -> None:
    lines = ablation_markdown(RESULT).splitlines()
    assert lines[3].startswith(r"| contrastive=[bold]a\|b; seed 2 failed: loss not finite | 40.0%")
    cells = [line.replace(r"\|", "").count("|") for line in lines[:4]]
    assert len(set(cells)) == 1
    assert "Search: 2 trials" in lines[-1]
