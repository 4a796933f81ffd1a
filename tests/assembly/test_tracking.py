"""Whole runs with the real trackers, read back with the trackers' own readers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from llmcausal.errors import ConfigError
from llmcausal.profile import dump_config
from tests import program

pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy",  # MLflow with SQLAlchemy 2.1
)
SMALL: dict[str, Any] = {
    "train": {"max_steps": 4},
    "validation": {"attack_probe": 2},
    "evaluation": {"at_end": True, "max_samples": 2, "max_new_tokens": 2},
}
SECRET = "hunter2hunter2"  # pragma: allowlist secret


def rows(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def adapter(run_dir: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run_dir / "checkpoint-4" / "adapter_model.safetensors")


def alike(one: Path, other: Path) -> bool:
    first, second = adapter(one), adapter(other)
    return first.keys() == second.keys() and all(
        torch.equal(value, second[name]) for name, value in first.items()
    )


def read_events(run_dir: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir / "tensorboard"), {"scalars": 0, "tensors": 0})
    events.Reload()
    return events


def read_mlflow(run_dir: Path) -> tuple[Any, Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{run_dir.parent / '.mlflow' / 'runs.db'}")
    experiment = client.get_experiment_by_name("llmcausal")
    (run,) = client.search_runs([experiment.experiment_id])
    return client, run


def test_tensorboard_and_mlflow_get_everything_and_go_on_after_a_resume(
    tiny_config: Any, trained_once: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MY_SECRET", SECRET)
    plain = trained_once(**SMALL).run_dir
    tracking = {"trackers": ["tensorboard", "mlflow"], "tables": True, "log_model": True}
    config = tiny_config(tracking=tracking, **SMALL)
    outcome = program.train(config, plain=True)
    run_dir = outcome.run_dir
    assert alike(run_dir, plain)
    again = program.resume(run_dir / "checkpoint-2", plain=True)
    assert alike(run_dir, plain)
    assert again.evaluation is not None

    written = {row["step"]: row for row in rows(run_dir)}
    evaluated = again.evaluation["tuned"]["attack_success_rate"]
    events = read_events(run_dir)
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]
    for name in ("loss", "val_attack_success_rate", "memory_bytes", "learning_rate"):
        points = {event.step: event.value for event in events.Scalars(name)}
        assert points == {
            step: pytest.approx(row[name], rel=1e-6) for step, row in written.items() if name in row
        }
    (final,) = events.Scalars("evaluation/tuned/attack_success_rate")
    assert final.value == pytest.approx(evaluated["value"])
    text = events.Tensors("evaluation_answers/text_summary")[-1]
    assert again.evaluation["generations"][0]["id"].encode() in text.tensor_proto.string_val[0]

    client, run = read_mlflow(run_dir)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "tiny"
    assert run.data.params["train.learning_rate"] == "0.001"
    assert run.data.params["output_dir"] == "runs"
    assert run.data.metrics["evaluation/tuned/attack_success_rate_high"] == evaluated["high"]
    history = client.get_metric_history(run.info.run_id, "loss")
    assert Counter(point.step for point in history) == {1: 1, 2: 1, 3: 2, 4: 2}
    assert {point.value for point in history} == {row["loss"] for row in rows(run_dir)[1:]}
    assert set(run.data.tags) <= {"mlflow.runName"}
    assert run.info.user_id == "unknown"
    files = {file.path for file in client.list_artifacts(run.info.run_id, "best")}
    assert "best/adapter_model.safetensors" in files
    assert "best/training_state.pt" not in files
    table = Path(client.download_artifacts(run.info.run_id, "evaluation_answers/step-4.json"))
    shown = json.loads(table.read_text())
    assert [row[0] for row in shown["data"]] == [
        row["id"] for row in again.evaluation["generations"]
    ]
    stored = [*(run_dir / "tensorboard").iterdir(), *(run_dir.parent / ".mlflow").rglob("*")]
    everything = b"".join(path.read_bytes() for path in stored if path.is_file())
    assert SECRET.encode() not in everything


# In a process of its own: wandb starts a service and hooks the interpreter's exit.
REAL_RUNS = """
import sys
from llmcausal.assembly.training import ResumeRequest, TrainRequest, resume, train
from llmcausal.profile import load_config
run_dir = train(TrainRequest(load_config(sys.argv[1]), plain=True)).run_dir
resume(ResumeRequest(run_dir / "checkpoint-2", plain=True))
"""


def read_wandb(file: Path) -> list[Any]:
    """Reads wandb's transaction log: LevelDB's log format after a header of seven bytes."""
    from wandb.proto import wandb_internal_pb2

    content, place, parts, records = file.read_bytes(), 7, b"", []
    assert content[:4] == b":W&B"
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length = int.from_bytes(content[place + 4 : place + 6], "little")
        kind = content[place + 6]  # 1 whole, 2 first, 3 middle, 4 last
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            records.append(wandb_internal_pb2.Record.FromString(parts))
            parts = b""
    return records


def values(items: Any) -> dict[str, Any]:
    """Returns what a history or summary record holds; of a table, the first part of its key."""
    return {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}


def test_wandb_offline_gets_everything_and_goes_on_after_a_resume(
    tiny_config: Any, trained_once: Any, tmp_path: Path
) -> None:
    tracking = {"trackers": ["wandb"], "mode": "offline", "tables": True, "log_model": True}
    config = tiny_config(tracking=tracking, **SMALL)
    profile, home = tmp_path / "tiny.toml", tmp_path / "home"
    profile.write_text(dump_config(config))
    home.mkdir()
    environment = {
        **os.environ,
        "WANDB_API_KEY": "k" * 40,
        "MY_SECRET": SECRET,
        "HOME": str(home),
    }
    done = subprocess.run(
        [sys.executable, "-c", REAL_RUNS, str(profile)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    assert "switched off" not in done.stdout
    assert "wandb sync" in done.stdout
    run_dir = config.run_dir
    plain = trained_once(**SMALL).run_dir
    assert alike(run_dir, plain)
    files = sorted(
        run_dir.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime
    )
    first, second = (read_wandb(file) for file in files)
    ids = {record.run.run_id for record in first + second if record.HasField("run")}
    assert len(ids) == 1
    (started,) = [record.run for record in first if record.HasField("run")]
    settings = {item.key: item.value_json for item in started.config.update}
    assert json.loads(settings["train"])["learning_rate"] == 0.001
    assert (started.host, started.project, started.display_name) == ("", "llmcausal", "tiny")
    written = {row["step"]: row for row in rows(run_dir)}
    for records, steps in ((first, [1, 2, 3, 4]), (second, [3, 4])):
        logged = [values(each.history.item) for each in records if each.HasField("history")]
        losses = {row["step"]: row["loss"] for row in logged if "loss" in row}
        assert losses == {step: written[step]["loss"] for step in steps}
        assert any("memory_bytes" in row and "val_attack_success_rate" in row for row in logged)
        tables = {key for row in logged for key in row if key.endswith("_answers")}
        assert tables == {"validation_answers", "evaluation_answers"}
        summary: dict[str, Any] = {}
        for record in records:
            summary |= values(record.summary.update)
        results = json.loads((run_dir / "evaluation" / "results.json").read_text())
        evaluated = results["tuned"]["utility_under_attack"]
        assert summary["evaluation/tuned/utility_under_attack"] == evaluated["value"]
        assert summary["evaluation/tuned/utility_under_attack_high"] == evaluated["high"]
        (model,) = [each.artifact for each in records if each.artifact.type == "model"]
        files = {entry.path for entry in model.manifest.contents}
        assert model.name == "tiny-best"
        assert "adapter_model.safetensors" in files
        assert not files & {"training_state.pt", "config.toml"}
    shown = "".join(path.read_text() for path in run_dir.glob("wandb/*/files/media/table/*.json"))
    answered = (run_dir / "evaluation" / "generations.jsonl").read_text().splitlines()
    assert all(json.loads(line)["id"] in shown for line in answered)
    stored = [path for path in (run_dir / "wandb").rglob("*") if path.is_file()]
    everything = b"".join(path.read_bytes() for path in stored)
    assert SECRET.encode() not in everything
    assert b"k" * 40 not in everything
    assert not [path for path in stored if path.name in ("wandb-metadata.json", "output.log")]
    assert not (tmp_path / "wandb").exists()


def test_debug_sends_nothing(tiny_config: Any) -> None:
    config = tiny_config(tracking={"trackers": ["tensorboard", "no_such:Tracker"]})
    run_dir = program.train(config, plain=True, debug=True).run_dir
    assert not (run_dir / "tensorboard").exists()


def test_a_missing_tracker_is_told_before_anything_is_written(
    tiny_config: Any, tmp_path: Path
) -> None:
    config = tiny_config(tracking={"trackers": ["no_such:Tracker"]})
    with pytest.raises(ConfigError, match="no_such"):
        program.train(config, plain=True)
    assert not (tmp_path / "runs").exists()


def test_a_server_that_never_answers_costs_no_figure_and_no_weight(
    tiny_config: Any,
    trained_once: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from llmcausal.train.callbacks import tracking

    monkeypatch.setattr(tracking, "START_SECONDS", 1.0)
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 1.0)
    plain = trained_once(**SMALL).run_dir
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"http://alice:{SECRET}@127.0.0.1:{deaf.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        config = tiny_config(tracking={"trackers": ["mlflow"]}, train={"max_steps": 4})
        run_dir = program.train(config, plain=True).run_dir
    assert alike(run_dir, plain)
    assert [row["step"] for row in rows(run_dir)] == [0, 1, 2, 3, 4]
    shown = capsys.readouterr().out
    assert "mlflow is switched off: it did not start within a minute" in shown
    assert SECRET not in shown
