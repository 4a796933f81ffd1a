"""The callbacks on scripted records; no model."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from llmcausal.config import RunConfig
from llmcausal.errors import ConfigError, StorageError
from llmcausal.train.callback import FitContext, TrainState
from llmcausal.train.callbacks import CALLBACKS, metrics_log, monitors
from llmcausal.train.callbacks.early_stopping import EarlyStopping
from llmcausal.train.callbacks.metrics_log import MetricsLog, cut_rows, read_rows
from llmcausal.train.callbacks.monitors import CausalMetrics, LearningRateMonitor, MemoryMonitor


def make_context(run_dir: Path, **changes: Any) -> FitContext:
    values: dict[str, Any] = {
        "config": RunConfig(),
        "run_dir": run_dir,
        "state": TrainState(),
        "total_steps": 20,
        "steps_per_epoch": 10,
        "device": "cpu",
        "samples": {"train": 8, "validation": 4},
        "save_checkpoint": lambda: run_dir / "checkpoint-0",
        "save_best": lambda: run_dir / "best",
    }
    return FitContext(**{**values, **changes})


def test_every_entry_of_the_table_exists() -> None:
    for name in CALLBACKS.entries:
        assert CALLBACKS.load(name).__name__ in CALLBACKS.entries[name]


# Early stopping


def feed(callback: EarlyStopping, context: FitContext, values: list[float], first: int = 1) -> None:
    for step, value in enumerate(values, start=first):
        callback.on_record(context, {"step": step, callback.metric: value})


def test_stops_after_patience_measurements_without_improvement(tmp_path: Path) -> None:
    context = make_context(tmp_path)
    stopping = EarlyStopping("val_loss", "min", patience=3, min_delta=0.1)
    feed(stopping, context, [1.0, 0.8, 0.75, 0.71])  # neither gain beats 0.1
    assert context.stop_reason is None
    feed(stopping, context, [0.7001], first=5)
    assert context.stop_reason is not None
    assert "val_loss" in context.stop_reason
    assert "best 0.8000 at step 2" in context.stop_reason


def test_more_can_be_better_and_nan_is_no_improvement(tmp_path: Path) -> None:
    context = make_context(tmp_path)
    stopping = EarlyStopping("val_spurious_separation", "max", patience=2, min_delta=0.0)
    feed(stopping, context, [0.1, 0.2, math.inf, 0.3, math.nan])
    assert (stopping.best, stopping.count, context.stop_reason) == (0.3, 1, None)
    feed(stopping, context, [math.nan], first=6)
    assert context.stop_reason is not None


def test_steps_without_the_metric_do_not_count(tmp_path: Path) -> None:
    context = make_context(tmp_path)
    stopping = EarlyStopping(patience=1)
    feed(stopping, context, [1.0])
    for step in range(2, 9):
        stopping.on_record(context, {"step": step, "loss": 1.0})
    assert (stopping.count, context.stop_reason) == (0, None)


def test_count_goes_on_after_resume(tmp_path: Path) -> None:
    first, second = EarlyStopping(patience=3), EarlyStopping(patience=3)
    feed(first, make_context(tmp_path), [1.0, 1.0, 1.0])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    context = make_context(tmp_path)
    feed(second, context, [1.0], first=4)
    assert context.stop_reason is not None
    assert "best 1.0000 at step 1" in context.stop_reason


def test_unknown_metric_is_refused_with_the_nearest(tmp_path: Path) -> None:
    stopping = EarlyStopping("val_los")
    stopping.on_record(make_context(tmp_path), {"step": 0, "epoch": 0.0})
    with pytest.raises(ConfigError, match=r"'val_los'; did you mean val_loss\?"):
        stopping.on_record(make_context(tmp_path), {"step": 0, "epoch": 0.0, "val_loss": 1.0})


def test_training_metric_is_not_refused_at_step_0(tmp_path: Path) -> None:
    stopping = EarlyStopping("loss")
    stopping.on_record(make_context(tmp_path), {"step": 0, "val_loss": 1.0})
    stopping.on_record(make_context(tmp_path), {"step": 1, "loss": 1.0, "val_loss": 1.0})
    assert stopping.best == 1.0
    with pytest.raises(ConfigError, match="no figure 'lossy'"):
        EarlyStopping("lossy").on_record(
            make_context(tmp_path), {"step": 1, "loss": 1.0, "val_loss": 1.0}
        )


# Learning rate


def test_learning_rate_is_the_one_the_step_used(tmp_path: Path) -> None:
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.1}, {"lr": 0.1}])
    monitor, context = LearningRateMonitor(optimizer), make_context(tmp_path)
    validation: dict[str, Any] = {"step": 0, "val_loss": 1.0}
    monitor.on_step_end(context, validation)
    assert "learning_rate" not in validation
    monitor.on_micro_batch(context, 1, 1)
    optimizer.param_groups[0]["lr"] = 0.05  # the scheduler, after the step
    record: dict[str, Any] = {"step": 1}
    monitor.on_step_end(context, record)
    assert record == {"step": 1, "learning_rate": 0.1}


def test_learning_rates_of_differing_groups_are_named(tmp_path: Path) -> None:
    groups = [{"lr": 0.1, "name": "adapter"}, {"lr": 0.2}]
    monitor = LearningRateMonitor(SimpleNamespace(param_groups=groups))
    monitor.on_micro_batch(make_context(tmp_path), 1, 1)
    record: dict[str, Any] = {"step": 1}
    monitor.on_step_end(make_context(tmp_path), record)
    assert record == {
        "step": 1,
        "learning_rate": 0.1,
        "learning_rate_adapter": 0.1,
        "learning_rate_1": 0.2,
    }


# Causal metrics


def test_means_over_the_window_survive_a_resume(tmp_path: Path) -> None:
    context = make_context(tmp_path)
    straight, before, after = CausalMetrics(3), CausalMetrics(3), CausalMetrics(3)
    values = [0.1, 0.9, 0.4, 0.7, 0.2]
    means = []
    for value in values:
        record: dict[str, Any] = {"step": 1, "causal_stability": value}
        straight.on_step_end(context, record)
        means.append(record["causal_stability_mean"])
    assert means[0] == pytest.approx(0.1)
    assert means[4] == pytest.approx((0.4 + 0.7 + 0.2) / 3)
    for value in values[:4]:
        before.on_step_end(context, {"step": 1, "causal_stability": value})
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    record = {"step": 5, "causal_stability": values[4]}
    after.on_step_end(context, record)
    assert record["causal_stability_mean"] == means[4]
    assert "spurious_separation_mean" not in record


# Memory


def test_host_memory_is_read_against_its_limit(tmp_path: Path) -> None:
    import psutil

    monitor, context, record = MemoryMonitor(), make_context(tmp_path), {"step": 1}
    monitor.on_fit_start(context)
    monitor.on_step_end(context, record)
    resident = psutil.Process().memory_info().rss
    assert abs(record["memory_bytes"] - resident) < 2**26
    assert record["memory_peak_bytes"] >= record["memory_bytes"] - 2**20
    assert monitor.limit_bytes is not None
    assert record["memory_bytes"] < monitor.limit_bytes <= psutil.virtual_memory().total


def test_a_container_limit_below_the_machine_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "max").write_text("max\n")
    (tmp_path / "limit").write_text("123456789\n")
    paths = (tmp_path / "max", tmp_path / "limit", tmp_path / "absent")
    monkeypatch.setattr(monitors, "CGROUP_LIMITS", paths)
    assert monitors.HostGauge().limit_bytes == 123456789


class FakeNvml:
    """NVML with one process on GPU-abc."""

    def __init__(self, processes: Callable[[], list[Any]]) -> None:
        self._processes = processes

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        assert uuid == "GPU-abc"
        return "handle"

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:
        assert handle == "handle"
        return self._processes()


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.cuda with 600 bytes reserved, 800 at most, of 6000."""
    import torch

    properties = SimpleNamespace(total_memory=6000, uuid="abc")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 600)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 800)


def cuda_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nvml: Any) -> Any:
    monkeypatch.setitem(__import__("sys").modules, "pynvml", nvml)
    monitor, context = MemoryMonitor(), make_context(tmp_path, device="cuda:0")
    record: dict[str, Any] = {"step": 1}
    monitor.on_fit_start(context)
    for _ in range(3):
        monitor.on_step_end(context, record)
    assert monitor.limit_bytes == 6000
    return record["memory_bytes"], record["memory_peak_bytes"], context.notes


@pytest.mark.usefixtures("cuda")
def test_nvml_adds_what_torch_does_not_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processes = [
        SimpleNamespace(pid=-1, usedGpuMemory=5000),
        SimpleNamespace(pid=os.getpid(), usedGpuMemory=1000),
    ]
    nvml = FakeNvml(lambda: processes)
    assert cuda_record(tmp_path, monkeypatch, nvml) == (1000, 1200, [])


def refuse() -> list[Any]:
    raise RuntimeError("driver not loaded")


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize(
    ("nvml", "reason"),
    [
        (None, "pynvml"),
        (FakeNvml(refuse), "driver not loaded"),
        (FakeNvml(list), "this process's share"),
        (FakeNvml(lambda: [SimpleNamespace(pid=os.getpid(), usedGpuMemory=None)]), "WSL"),
    ],
)
def test_without_nvml_torch_is_asked_and_it_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nvml: Any, reason: str
) -> None:
    used, peak, notes = cuda_record(tmp_path, monkeypatch, nvml)
    assert (used, peak, len(notes)) == (600, 800, 1)
    assert reason in notes[0]


# metrics.jsonl


def test_rows_are_on_disk_after_each_record(tmp_path: Path) -> None:
    log, context = MetricsLog(), make_context(tmp_path)
    log.on_fit_start(context)
    rows = [{"step": 0, "val_loss": 2.0}, {"step": 1, "loss": 1.5}]
    for done, row in enumerate(rows, start=1):
        log.on_record(context, dict(row))
        assert read_rows(tmp_path / "metrics.jsonl") == rows[:done]


def test_non_finite_figures_are_null_and_named(tmp_path: Path) -> None:
    log, context = MetricsLog(), make_context(tmp_path)
    log.on_fit_start(context)
    record = {"step": 1, "loss": math.nan, "grad_norm": -math.inf, "task_loss": 1.0}
    log.on_record(context, record)

    def no_constants(name: str) -> None:
        raise AssertionError(name)

    row = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=no_constants)
    assert row == {
        "step": 1,
        "loss": None,
        "grad_norm": None,
        "task_loss": 1.0,
        "non_finite": {"loss": "nan", "grad_norm": "-inf"},
    }
    assert set(record) == {"step", "loss", "grad_norm", "task_loss"}


def test_a_tensor_from_a_users_callback_is_written_as_a_number(tmp_path: Path) -> None:
    import torch

    log, context = MetricsLog(), make_context(tmp_path)
    log.on_fit_start(context)
    log.on_record(context, {"step": 1, "mine": torch.tensor(2.5), "bad": torch.tensor(math.nan)})
    assert read_rows(tmp_path / "metrics.jsonl") == [
        {"step": 1, "mine": 2.5, "bad": None, "non_finite": {"bad": "nan"}}
    ]


@given(data=st.data(), written=st.integers(0, 6))
def test_resume_after_a_kill_leaves_neither_gap_nor_duplicate(
    tmp_path_factory: pytest.TempPathFactory, data: DataObject, written: int
) -> None:
    """The file may end after any row, or within the next."""
    folder = tmp_path_factory.mktemp("run")
    path = folder / "metrics.jsonl"
    rows = [json.dumps({"step": step, "loss": step / 7}) + "\n" for step in range(written + 2)]
    whole = "".join(rows[: written + 1])
    torn = data.draw(st.integers(0, len(rows[-1]) - 2))
    path.write_text(whole + rows[-1][:torn])
    checkpoint = data.draw(st.integers(0, written))
    context = make_context(folder, state=TrainState(step=checkpoint))
    log = MetricsLog()
    log.on_fit_start(context)
    for step in range(checkpoint + 1, 9):
        log.on_record(context, {"step": step, "loss": step / 7})
    assert [row["step"] for row in read_rows(path)] == list(range(9))
    assert context.notes == []
    assert [entry.name for entry in folder.iterdir()] == ["metrics.jsonl"]


def test_a_whole_last_row_without_its_line_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}')
    assert cut_rows(path, after_step=2) == 2
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_validation_before_the_first_step_done_again_appears_once(tmp_path: Path) -> None:
    for loss in (2.0, 3.0):
        log, context = MetricsLog(), make_context(tmp_path)
        log.on_fit_start(context)
        log.on_record(context, {"step": 0, "val_loss": loss})
    assert read_rows(tmp_path / "metrics.jsonl") == [{"step": 0, "val_loss": 3.0}]


def test_lost_rows_are_told(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    context = make_context(tmp_path, state=TrainState(step=3))
    MetricsLog().on_fit_start(context)
    assert "ends at step 1, the checkpoint is from step 3" in context.notes[0]


def test_damage_within_the_rows_to_keep_is_named_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(StorageError, match=r"metrics\.jsonl:2: not a row"):
        cut_rows(path, after_step=3)
    assert path.read_text() == '{"step": 1}\n{"ste\n{"step": 3}\n'


def test_full_disk_is_told_with_the_way_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, context = MetricsLog(), make_context(tmp_path)
    log.on_fit_start(context)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(metrics_log.os, "fsync", full)
    with pytest.raises(StorageError, match=r"No space left on device.*llmcausal resume"):
        log.on_record(context, {"step": 1})


def test_a_cut_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(metrics_log.os, "fsync", full)
    with pytest.raises(StorageError):
        cut_rows(path, after_step=1)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
