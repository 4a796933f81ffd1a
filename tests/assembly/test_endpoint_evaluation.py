"""A deployed model evaluated: by the figures of the one in memory, whatever happens on the way."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from llmcausal.assembly.evaluating import load_parts
from llmcausal.data.builtin import generate
from llmcausal.data.formats.jsonl import write_triplets
from llmcausal.errors import DataError, Interrupted, UsageError
from llmcausal.evaluation.endpoint import KEY_VARIABLE, RequestPace
from llmcausal.profile import load_config
from llmcausal.server.app import Served, build_app
from llmcausal.server.engine import Engine, Limits
from llmcausal.train.checkpoint import verify
from tests import program
from tests.server.conftest import listening

KEY = "sk-very-secret-key"
SETTINGS = {"max_samples": 6, "max_new_tokens": 4}


@pytest.fixture
def checkpoint(
    trained: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A trained checkpoint; answers are kept in a cache of this test's own."""
    monkeypatch.setenv("LLMCAUSAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    run_dir = trained(
        data={"builtin": {"test": 6, "test_seen": 0}},
        train={"max_steps": 2, "learning_rate": 0.05},
        evaluation={"at_end": False, "max_new_tokens": 4, "batch_size": 3, "cache": True},
    )
    return run_dir / "best"


@pytest.fixture
def serve(checkpoint: Path) -> Iterator[Callable[..., str]]:
    """Serves the checkpoint, or its base: `serve(adapter=False)` returns the URL."""
    config, manifest = load_config(checkpoint / "config.toml"), verify(checkpoint)
    with ExitStack() as stack:

        def start(*, adapter: bool = True) -> str:
            # A model of its own: a server without the adapter switches it off for as long as it is.
            parts = load_parts(config, manifest, checkpoint, None)
            engine = Engine(parts.model, parts.template, Limits(), adapter=adapter)
            engine.start()
            stack.callback(engine.close)
            app = build_app(Served(engine, "tiny", None, ("*",)))
            return stack.enter_context(listening(app, 30))

        yield start


@pytest.fixture
def url(serve: Callable[..., str]) -> str:
    return serve()


def silent(done: int, total: int) -> None:
    """Takes the place of the progress on stderr."""


def answers(result: dict[str, Any]) -> dict[tuple[str, str], str]:
    return {(row["id"], row["member"]): row["answer"] for row in result["generations"]}


def figures(side: dict[str, Any]) -> dict[str, Any]:
    read = ("perplexity", "perplexity_under_attack", "causal", "name")
    return {name: value for name, value in side.items() if value is not None and name not in read}


def test_figures_and_files_are_those_of_the_model_in_memory(
    checkpoint: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    local = program.evaluate(checkpoint, progress=silent, out=tmp_path / "local", reads=False)
    result = program.evaluate_endpoint(url, "tiny", checkpoint=checkpoint, progress=silent)
    assert answers(result) == answers(local)
    assert len(set(answers(local).values())) > 3
    assert figures(result["tuned"]) == figures(local["tuned"]) == figures(result["base"])
    assert result["base"]["name"] == str(checkpoint)
    assert result["verdict"]["resists"] == "same"
    assert result["difference"]["utility"]["value"] == 0
    folder = Path(result["written"])
    assert re.fullmatch(r"runs/endpoint-127-0-0-1-\d+-tiny/evaluation", str(folder))
    written = json.loads((folder / "results.json").read_text("utf-8"))
    prompts = len(answers(local))
    assert written["endpoint"] == {
        "url": f"{url}/v1/chat/completions",
        "model": "tiny",
        "api": "openai",
        "requests": prompts,
        "retries": 0,
        "kept": 0,
    }
    assert f"tiny at {url}/v1/chat/completions" in (folder / "report.html").read_text("utf-8")
    assert "- endpoint: tiny at http" in (folder / "report.md").read_text("utf-8")
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes()
    # It has ended, so the deployment is asked anew; on request its answers are taken again.
    again = program.evaluate_endpoint(url, "tiny", checkpoint=checkpoint, progress=silent)
    assert (again["endpoint"]["requests"], again["endpoint"]["kept"]) == (prompts, 0)
    data = {"progress": silent, "settings": {"max_new_tokens": 4, "max_samples": 6}}
    reused = program.evaluate_endpoint(
        url, "tiny", checkpoint=checkpoint, baseline=False, reuse=True, **data
    )
    assert (reused["endpoint"]["requests"], reused["endpoint"]["kept"]) == (0, prompts)
    assert reused["base"] is None
    assert "are from an earlier evaluation" in reused["notes"][0]


def test_two_endpoints_are_compared_as_base_and_tuned_in_memory(
    checkpoint: Path, url: str, serve: Callable[..., str], tmp_path: Path
) -> None:
    local = program.evaluate(checkpoint, progress=silent, out=tmp_path / "local", reads=False)
    assert any(row["answer"] != row["base_answer"] for row in local["generations"])
    result = program.evaluate_endpoint(
        url,
        "tiny",
        checkpoint=checkpoint,
        baseline_model="tiny",
        baseline_url=serve(adapter=False),
        progress=silent,
    )
    for side in ("tuned", "base"):
        assert figures(result[side]) == figures(local[side])
    for part in ("difference", "verdict", "likeness", "skipped", "generations"):
        assert result[part] == local[part]


def test_token_ids_are_rendered_by_an_exported_folder_or_the_checkpoint(
    checkpoint: Path, url: str, tmp_path: Path
) -> None:
    data = tmp_path / "mine.jsonl"
    write_triplets(data, generate("test", 3, seed=5))
    asked: dict[str, Any] = {"data": str(data), "settings": SETTINGS, "progress": silent}
    local = program.evaluate(checkpoint, reads=False, out=tmp_path / "local", **asked)
    asked["api"] = "completions"
    for source in ({"tokenizer": str(checkpoint)}, {"checkpoint": checkpoint, "baseline": False}):
        result = program.evaluate_endpoint(url, "tiny", **asked, **source)
        assert answers(result) == answers(local)
        assert Path(result["written"]).name == "evaluation-file-mine"
        assert not any("renders prompts" in note for note in result["notes"])
    with pytest.raises(UsageError, match="--api completions renders token ids: give --checkpoint"):
        program.evaluate_endpoint(url, "tiny", **asked)
    with pytest.raises(UsageError, match="--tokenizer renders nothing with --api openai"):
        program.evaluate_endpoint(url, "tiny", tokenizer=str(checkpoint))


def test_a_spent_budget_leaves_triplets_out_and_the_next_run_goes_on(
    checkpoint: Path, url: str
) -> None:
    asked: dict[str, Any] = {"checkpoint": checkpoint, "baseline": False, "progress": silent}
    whole = program.evaluate_endpoint(url, "tiny", suite="builtin", **asked)
    prompts = len(whole["generations"])
    part = program.evaluate_endpoint(url, "tiny", pace=RequestPace(requests=6, at_once=1), **asked)
    assert part["endpoint"]["requests"] == 6
    left_out = {item["id"] for item in part["skipped"]}
    assert all("budget of --requests ended" in item["reason"] for item in part["skipped"])
    assert 1 <= part["tuned"]["attack_success_rate"]["n"] == 6 - len(left_out) < 6
    rest = program.evaluate_endpoint(url, "tiny", **asked)
    assert (rest["endpoint"]["kept"], rest["endpoint"]["requests"]) == (6, prompts - 6)
    assert figures(rest["tuned"]) == figures(whole["tuned"])
    with pytest.raises(DataError, match="the budget of --requests ended"):
        program.evaluate_endpoint(url, "tiny", pace=RequestPace(requests=1), **asked)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_an_interrupted_evaluation_goes_on(
    checkpoint: Path,
    url: str,
    number: signal.Signals,
    code: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked: dict[str, Any] = {
        "checkpoint": checkpoint,
        "baseline": False,
        "pace": RequestPace(at_once=2),
    }

    def stop(done: int, total: int) -> None:
        if done == 4:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match="run the same command again") as stopped:
        program.evaluate_endpoint(url, "tiny", progress=stop, **asked)
    assert stopped.value.exit_code == code
    del stopped  # or its traceback holds the tasks
    gc.collect()
    assert "never retrieved" not in caplog.text
    result = program.evaluate_endpoint(url, "tiny", progress=silent, **asked)
    assert 4 <= result["endpoint"]["kept"] <= 6
    assert result["endpoint"]["requests"] == len(answers(result)) - result["endpoint"]["kept"]


class Deployed:
    """`llmcausal serve` in a process of its own."""

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.port = 0
        self.process: subprocess.Popen[str] | None = None

    def start(self, *options: str) -> subprocess.Popen[str]:
        command = ["serve", "--checkpoint", str(self.checkpoint), "--port", str(self.port)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llmcausal", *command, *options],
            stderr=subprocess.PIPE,
            text=True,
        )
        return self.process

    def wait(self) -> str:
        assert self.process is not None
        assert self.process.stderr is not None
        seen = []
        for line in self.process.stderr:
            seen.append(line)
            if found := re.search(r"(\S+) is served at (http://127\.0\.0\.1:(\d+)/v1)", line):
                self.port = int(found[3])
                return found[2]
        raise AssertionError("".join(seen))


@pytest.mark.timeout(900)
@pytest.mark.slow
def test_a_server_that_is_killed_and_started_again_loses_nothing(
    checkpoint: Path, tmp_path: Path
) -> None:
    local = program.evaluate(checkpoint, progress=silent, out=tmp_path / "local", reads=False)
    deployed = Deployed(checkpoint)
    first = deployed.start()
    try:
        url = deployed.wait()
        counts: list[int] = []

        def kill_once(done: int, total: int) -> None:
            counts.append(done)
            if done == total // 2 and deployed.process is first:
                first.kill()
                first.communicate()
                deployed.start()

        result = program.evaluate_endpoint(
            url,
            "tiny",
            checkpoint=checkpoint,
            progress=kill_once,
            pace=RequestPace(at_once=2, patience=300, longest_wait=2),
        )
        assert first.returncode == -signal.SIGKILL
        assert answers(result) == answers(local)
        assert figures(result["tuned"]) == figures(local["tuned"])
        assert counts == sorted(counts)
        requests, prompts = result["endpoint"]["requests"], len(answers(local))
        assert prompts <= requests <= prompts + 2  # those under way when it was killed
        second = deployed.process
        assert second is not None
        second.terminate()
        _, errors = second.communicate(timeout=60)
        assert second.returncode == 143
        assert "The server has stopped." in errors
    finally:
        if deployed.process is not None:
            deployed.process.kill()
            deployed.process.communicate()
