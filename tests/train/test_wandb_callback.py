"""The tracker: really run offline, and failing at every point."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmcausal.config import RunConfig
from llmcausal.train.callback import FitContext
from llmcausal.train.callbacks.wandb import WandbTracker
from llmcausal.train.state import TrainState


def make_context(run_dir: Path) -> FitContext:
    return FitContext(
        config=RunConfig(name="tracked"),
        run_dir=run_dir,
        state=TrainState(),
        total_steps=5,
        steps_per_epoch=5,
        device="cpu",  # type: ignore[arg-type]
        samples={},
        save_checkpoint=lambda: run_dir,
        save_best=lambda: run_dir,
    )


# In a process of its own: wandb starts a service and hooks the interpreter's exit.
REAL_RUN = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_wandb_callback import make_context
from llmcausal.train.callbacks.wandb import WandbTracker
run_dir = Path(sys.argv[2])
first, second = WandbTracker(), WandbTracker()
notes = []
for tracker in (first, second):
    if tracker is second:
        tracker.load_state_dict(json.loads(json.dumps(first.state_dict())))
    context = make_context(run_dir)
    tracker.on_fit_start(context)
    for step in (3, 4):
        tracker.on_record(context, {"step": step, "my_odd_figure": 1.5, "loss": float("nan")})
    tracker.on_fit_end(context, "completed")
    notes.append(context.notes)
print(json.dumps({"ids": [first.run_id, second.run_id], "notes": notes}))
"""


def test_offline_run_leaves_its_files_and_is_resumed_under_the_same_id(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    run_dir, home = tmp_path / "run", tmp_path / "home"
    run_dir.mkdir()
    home.mkdir()
    environment = {
        **os.environ,
        "WANDB_MODE": "offline",
        "WANDB_API_KEY": "k" * 40,
        "MY_SECRET": "hunter2hunter2",
        "HOME": str(home),
    }
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", REAL_RUN, here, str(run_dir)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    result = json.loads(done.stdout)
    first, second = result["ids"]
    assert first == second
    assert first
    assert all(len(notes) == 1 and "offline" in notes[0] for notes in result["notes"])
    files = [path for path in run_dir.rglob("*") if path.is_file()]
    runs = [path.read_bytes() for path in files if path.suffix == ".wandb"]
    assert runs
    assert all(first.encode() in content for content in runs)
    assert all(b"my_odd_figure" in content and b"lambda_causal" in content for content in runs)
    everything = b"".join(path.read_bytes() for path in files)
    for secret in ("hunter2hunter2", "k" * 40, platform.node()):
        assert secret.encode() not in everything
    assert not (tmp_path / "wandb").exists()


class FakeRun:
    def __init__(self, wandb: FakeWandb) -> None:
        self.wandb = wandb

    def define_metric(self, name: str, step_metric: str | None = None) -> None: ...

    def log(self, figures: dict[str, Any]) -> None:
        self.wandb.fail_at("log")
        self.wandb.logged.append(figures)

    def finish(self, exit_code: int) -> None:
        self.wandb.fail_at("finish")
        self.wandb.exit_codes.append(exit_code)


class FakeWandb:
    """As much of wandb as is called, failing where it is told to."""

    def __init__(self, failing: str = "", logged_in: bool = True, url: str = "") -> None:
        self.failing, self.logged_in, self.url = failing, logged_in, url
        self.logged: list[dict[str, Any]] = []
        self.exit_codes: list[int] = []
        self.modes: list[str | None] = []

    def fail_at(self, point: str) -> None:
        if point == self.failing:
            raise RuntimeError(f"{point} went wrong")

    def Settings(self, **values: Any) -> Any:
        return SimpleNamespace(**values)

    def setup(self, settings: Any) -> Any:
        self.fail_at("setup")
        return SimpleNamespace(settings=SimpleNamespace(mode="online", base_url=self.url))

    def login(self, prompt: bool, verify: bool) -> bool:
        assert not prompt
        return self.logged_in

    def init(self, mode: str | None, **values: Any) -> FakeRun:
        self.fail_at("init")
        self.modes.append(mode)
        return FakeRun(self)


def track(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wandb: Any, outcome: str) -> list[str]:
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    tracker, context = WandbTracker(), make_context(tmp_path)
    tracker.on_fit_start(context)
    for step in range(1, 4):
        tracker.on_record(context, {"step": step, "loss": 1.0})
    tracker.on_fit_end(context, outcome)
    return context.notes


@pytest.mark.parametrize("point", ["setup", "init", "log", "finish"])
def test_a_failure_anywhere_is_told_once_and_never_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    wandb = FakeWandb(failing=point, logged_in=False)
    notes = track(tmp_path, monkeypatch, wandb, "completed")
    failures = [note for note in notes if "switched off" in note]
    assert len(failures) == 1
    assert f"{point} went wrong" in failures[0]
    assert len(wandb.logged) == (3 if point == "finish" else 0)


def test_a_missing_package_is_told_with_the_way_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = track(tmp_path, monkeypatch, None, "completed")
    assert len(notes) == 1
    assert "pip install 'llmcausal[wandb]'" in notes[0]


@pytest.mark.parametrize(("outcome", "code"), [("completed", 0), ("interrupted", 0), ("failed", 1)])
def test_the_outcome_is_told_to_the_tracker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: str, code: int
) -> None:
    wandb = FakeWandb(logged_in=False)
    track(tmp_path, monkeypatch, wandb, outcome)
    assert wandb.exit_codes == [code]
    assert [figures["step"] for figures in wandb.logged] == [1, 2, 3]


def test_no_login_or_no_network_means_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_login = FakeWandb(logged_in=False)
    assert "no login" in track(tmp_path, monkeypatch, no_login, "completed")[0]
    nothing_listens = "http://127.0.0.1:1"
    no_network = FakeWandb(url=nothing_listens)
    assert nothing_listens in track(tmp_path, monkeypatch, no_network, "completed")[0]
    assert no_login.modes == no_network.modes == ["offline"]


def test_a_reachable_server_with_a_login_means_wandbs_own_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import http.server
    import threading

    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    wandb = FakeWandb(url=f"http://127.0.0.1:{server.server_port}")
    notes = track(tmp_path, monkeypatch, wandb, "completed")
    thread.join()
    server.server_close()
    assert (notes, wandb.modes) == ([], [None])  # it answered 501, which is an answer
