"""The trackers' callback: what trackers get, and what happens when one fails."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from llmcausal.config import RunConfig, TrackingSection
from llmcausal.errors import ConfigError
from llmcausal.train.callback import FitContext, TrainState
from llmcausal.train.callbacks import tracking
from llmcausal.train.callbacks.tracking import Tracking, load_trackers
from llmcausal.train.trackers import tracker as trackers
from llmcausal.train.trackers.tracker import TrackedRun, Tracker
from llmcausal.train.trackers.wandb import reason_to_stay_offline

SHARE = {"value": 0.5, "n": 2, "low": 0.5, "high": 0.5}
EVALUATION: dict[str, Any] = {
    "base": None,
    "tuned": {"utility": SHARE, "groups": {}},
    "difference": None,
    "generations": [],
}


class Recorder(Tracker):
    """Records its calls; fails or hangs as the class says."""

    calls: ClassVar[list[tuple[Any, ...]]] = []
    failing = hanging = ""
    released = threading.Event()

    def _do(self, what: str, *values: Any) -> None:
        if what == self.failing:
            raise RuntimeError(f"{what} went\n wrong at http://user:secret@host/x")
        if what == self.hanging:
            self.released.wait(30)
        self.calls.append((what, *values))

    def start(self, run: TrackedRun, run_id: str | None) -> str:
        self._do("start", run, run_id)
        return run_id or "made-here"

    def log(self, step: int, figures: Any) -> None:
        self._do("log", step, figures)

    def log_table(self, name: str, rows: Any, step: int) -> None:
        self._do("table", name, rows, step)

    def log_files(self, name: str, files: Any) -> None:
        self._do("files", name, files)

    def finish(self, outcome: str) -> None:
        self._do("finish", outcome)


class Second(Recorder):
    """A second tracker, which must not disturb the first."""

    calls: ClassVar[list[tuple[Any, ...]]] = []
    failing = hanging = ""

    def _do(self, what: str, *values: Any) -> None:
        self.calls.append((what, *values))


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for kind in (Recorder, Second):
        monkeypatch.setattr(kind, "calls", [])
    Recorder.released.clear()
    yield
    Recorder.released.set()


def make_context(config: RunConfig) -> FitContext:
    config.run_dir.mkdir(parents=True, exist_ok=True)
    return FitContext(
        config=config,
        run_dir=config.run_dir,
        state=TrainState(),
        total_steps=5,
        steps_per_epoch=5,
        device="cpu",  # type: ignore[arg-type]
        samples={},
        save_checkpoint=lambda: config.run_dir,
        save_best=lambda: config.run_dir,
    )


def make_config(tmp_path: Path, **section: Any) -> RunConfig:
    return RunConfig.model_validate(
        {"name": "tracked", "output_dir": tmp_path / "home-of-alice", "tracking": section}
    )


def track(config: RunConfig, steps: int = 3, outcome: str = "completed") -> list[str]:
    callback = Tracking(config, {"recorder": Recorder, "second": Second})
    context = make_context(config)
    callback.on_fit_start(context)
    for step in range(steps):
        callback.on_record(context, {"step": step, "loss": 1.0})
    callback.on_fit_end(context, outcome)
    notes = list(context.notes)
    return notes + callback.close()


@pytest.mark.parametrize("point", ["start", "log", "finish"])
def test_a_failure_is_told_once_without_passwords_and_leaves_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    monkeypatch.setattr(Recorder, "failing", point)
    (note,) = track(make_config(tmp_path))
    assert "recorder is switched off: RuntimeError" in note
    assert f"{point} went wrong" in note
    assert "secret" not in note
    assert [call[0] for call in Second.calls] == ["start", "log", "log", "log", "finish"]
    assert not [call for call in Recorder.calls if call[0] == "finish"]


def test_the_evaluation_does_not_start_again_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path)
    callback = Tracking(config, {"recorder": Recorder})
    context = make_context(config)
    callback.on_fit_start(context)
    callback.state_dict()
    monkeypatch.setattr(Recorder, "failing", "log")
    callback.on_record(context, {"step": 1, "loss": 1.0})
    deadline = time.monotonic() + 10
    while callback.active and time.monotonic() < deadline:
        callback.on_fit_end(context, "completed")
    assert not callback.active
    callback.log_evaluation(EVALUATION, 1)
    assert callback.close() == []
    assert [call[0] for call in Recorder.calls] == ["start"]


def test_an_evaluation_made_later_goes_on_with_the_run(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    make_context(config)
    callback = Tracking(config, {"recorder": Recorder})
    callback.load_state_dict({"run_ids": {"recorder": "kept"}})
    callback.log_evaluation(EVALUATION, 9)
    assert callback.close() == []
    start, log, finish = Recorder.calls
    assert start[2] == "kept"
    assert log[1:] == (9, {f"evaluation/tuned/utility{end}": 0.5 for end in ("", "_low", "_high")})
    assert finish == ("finish", "completed")


@pytest.mark.parametrize("point", ["start", "log", "finish"])
def test_a_tracker_that_hangs_never_blocks_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    monkeypatch.setattr(Recorder, "hanging", point)
    monkeypatch.setattr(tracking, "QUEUED", 50)
    monkeypatch.setattr(tracking, "START_SECONDS", 0.3)
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 0.3)
    started = time.monotonic()
    steps = 20 if point == "finish" else 60
    notes = track(make_config(tmp_path), steps)
    assert time.monotonic() - started < 5
    assert len([note for note in notes if "recorder is switched off" in note]) == 1


def test_a_checkpoint_waits_for_the_id_but_not_for_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Recorder, "hanging", "log")
    config = make_config(tmp_path)
    callback = Tracking(config, {"recorder": Recorder})
    context = make_context(config)
    callback.on_fit_start(context)
    callback.on_record(context, {"step": 1, "loss": 1.0})
    started = time.monotonic()
    assert callback.state_dict() == {"run_ids": {"recorder": "made-here"}}
    assert time.monotonic() - started < 10
    assert context.notes == []
    Recorder.released.set()
    callback.close()


def test_an_id_is_kept_while_its_tracker_is_away_and_a_strange_one_is_not_used(
    tmp_path: Path,
) -> None:
    config = make_config(tmp_path)
    callback = Tracking(config, {"recorder": Recorder, "second": Second})
    saved = {"run_ids": {"recorder": "r.1", "second": "../../etc", "away": "kept"}}
    callback.load_state_dict(json.loads(json.dumps(saved)))
    context = make_context(config)
    context.state.step, context.state.started = 7, True
    callback.on_fit_start(context)
    ids = callback.state_dict()["run_ids"]
    callback.close()
    assert ids == {"recorder": "r.1", "second": "made-here", "away": "kept"}
    assert Recorder.calls[0][2] == "r.1"
    assert Second.calls[0][2] is None
    assert Recorder.calls[0][1].first_step == 8


def test_only_finite_figures_under_plain_names(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    callback = Tracking(config, {"recorder": Recorder})
    context = make_context(config)
    callback.on_fit_start(context)
    record = {
        "step": 1,
        "loss": float("nan"),
        "grad_norm": float("inf"),
        "none": None,
        "text": "12",
        "tensor": torch.tensor(2.5),
        "../../évil\n": 1,
        "mine/figure": 3,
        "": 4,
    }
    callback.on_record(context, record)
    callback.close()
    (log,) = [call for call in Recorder.calls if call[0] == "log"]
    assert log[2] == {"step": 1, "tensor": 2.5, "__/__/_vil_": 1, "mine/figure": 3, "unnamed": 4}


def test_no_folder_of_the_user_is_told(tmp_path: Path) -> None:
    config = make_config(tmp_path).model_copy(update={"callbacks": (str(tmp_path / "x"),)})
    callback = Tracking(config, {"recorder": Recorder})
    callback.on_fit_start(make_context(config))
    callback.close()
    settings = Recorder.calls[0][1].settings
    assert settings["output_dir"] == "home-of-alice"
    assert settings["train"]["learning_rate"] == config.train.learning_rate
    assert str(tmp_path) not in json.dumps(settings)


def _row(**values: Any) -> dict[str, Any]:
    row = dict.fromkeys((*tracking._COLUMNS, *tracking._BASE_COLUMNS, "system"), "x")
    return {**row, **values}


def test_answers_are_given_only_if_asked_for_and_whatever_they_hold(tmp_path: Path) -> None:
    for tables in (False, True):
        config = make_config(tmp_path, tables=tables)
        callback = Tracking(config, {"recorder": Recorder})
        callback.answers = lambda: [_row(answer="lone \ud800", base_answer=None)]
        context = make_context(config)
        callback.on_fit_start(context)
        callback.on_record(context, {"step": 1, "loss": 1.0})
        callback.on_record(context, {"step": 2, "val_loss": 1.0})
        callback.close()
        given = [call for call in Recorder.calls if call[0] == "table"]
        assert len(given) == tables
    assert (given[0][1], given[0][3]) == ("validation_answers", 2)
    (row,) = given[0][2]
    assert list(row) == list(tracking._COLUMNS)
    assert row["answer"] == "lone \\ud800"


@pytest.mark.parametrize(("outcome", "given"), [("completed", True), ("failed", False)])
def test_the_best_checkpoint_is_given_without_what_resuming_needs(
    tmp_path: Path, outcome: str, given: bool
) -> None:
    config = make_config(tmp_path, log_model=True)
    best = config.run_dir / "best"
    best.mkdir(parents=True)
    kept_here = ("training_state.pt", "config.toml", "manifest.json")
    for name in ("adapter_model.safetensors", "adapter_config.json", *kept_here):
        (best / name).write_text("x")
    track(config, outcome=outcome)
    files = [[path.name for path in call[2]] for call in Recorder.calls if call[0] == "files"]
    assert files == ([["adapter_config.json", "adapter_model.safetensors"]] if given else [])
    assert Recorder.calls[-1] == ("finish", outcome)


def test_a_tracker_that_cannot_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(name: str) -> str:
        with pytest.raises(ConfigError) as caught:
            load_trackers(TrackingSection(trackers=(name,)))
        return str(caught.value)

    assert "did you mean mlflow?" in refused("mlfow")
    assert "derive it from" in refused("collections:Counter")
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    for name, extra in [("wandb", "wandb"), ("tensorboard", "trackers"), ("mlflow", "trackers")]:
        assert f"pip install 'llmcausal[{extra}]'" in refused(name)


def test_online_without_a_server_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI is not set"):
        load_trackers(TrackingSection(trackers=("mlflow",), mode="online"))


class FakeWandb:
    """The part of wandb that decides whether figures can be sent."""

    def __init__(self, url: str, logged_in: bool = True, mode: str = "online") -> None:
        self.logged_in = logged_in
        self.settings = SimpleNamespace(mode=mode, base_url=url)

    def Settings(self, **values: Any) -> Any:
        return SimpleNamespace(**values)

    def setup(self, settings: Any) -> Any:
        return self

    def login(self, prompt: bool, verify: bool) -> bool:
        assert not prompt
        return self.logged_in


def test_wandb_stays_offline_where_it_cannot_send(monkeypatch: pytest.MonkeyPatch) -> None:
    def reason(wandb: FakeWandb, mode: str = "auto") -> str:
        monkeypatch.setitem(sys.modules, "wandb", wandb)
        return reason_to_stay_offline(TrackingSection.model_validate({"mode": mode}))

    closed = "http://127.0.0.1:1"
    assert reason(FakeWandb(closed, logged_in=False)) == "no login"
    assert f"{closed} cannot be reached" in reason(FakeWandb(closed))
    assert "WANDB_MODE" in reason(FakeWandb(closed, mode="offline"))
    assert reason(FakeWandb(closed), "offline") == "tracking.mode says so"
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        answered = reason(FakeWandb(f"http://127.0.0.1:{server.server_port}"))
        thread.join()
    assert answered == ""  # 501 is an answer
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb(closed, logged_in=False))
    with pytest.raises(ConfigError, match=r"no login.*wandb login"):
        load_trackers(TrackingSection(trackers=("wandb",), mode="online"))
