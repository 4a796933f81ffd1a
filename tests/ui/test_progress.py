"""Progress as lines, and the forecast of a run's time."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from llmcausal.ui.progress import FORECAST_AFTER, FORWARD_SHARE, Forecast, PlainLog


@pytest.fixture
def log(run: Any) -> tuple[PlainLog, io.StringIO]:
    file = io.StringIO()
    return PlainLog(Console(file=file, markup=False, highlight=False), run.clock), file


def test_one_line_for_each_event(run: Any, log: Any) -> None:
    plain, file = log
    run.start(plain)
    for _ in range(4):
        run.step(plain)
    run.context.notes.append("wandb failed")
    run.step(plain)
    plain.on_checkpoint(run.context, run.context.run_dir / "checkpoint-5", False)
    plain.on_fit_end(run.context, "completed")
    lines = file.getvalue().splitlines()
    assert lines[:4] == [
        "scripted: to step 12 on cuda:0, 64 train, 8 validation triplets",
        "note: SmolLM2-135M-Instruct, 4.9 M trained parameters",
        "step  0/12 validating: 2 batches",
        "step  0/12 validation: loss  3.5000  stability  0.9500",
    ]
    assert lines[4].startswith("step  1/12 epoch 0.25  loss  2.4000  task  1.2500  robust  0.7500")
    assert lines[4].endswith("lr 2.00e-04  grad  1.1250   1,000 tokens/s   6.0 s/step  ETA 1:18")
    assert lines[7].startswith("step  4/12 validating")
    assert lines[8].startswith("step  4/12 epoch 1.00")
    assert lines[9] == "step  4/12 validation: loss  2.6000  stability  0.9500"
    assert lines[10] == f"step  4/12 best val_loss 2.6000: {run.context.run_dir}/best"
    assert lines[11].startswith("step  5/12")
    assert lines[12] == "note: wandb failed"
    assert lines[13] == f"step  5/12 checkpoint: {run.context.run_dir}/checkpoint-5"
    assert lines[14:] == ["step  5/12 completed"]


def test_a_checkpoint_written_before_the_step_is_told_comes_after_it(run: Any, log: Any) -> None:
    plain, file = log
    run.start(plain)
    run.context.state.step = 1
    plain.on_checkpoint(run.context, run.context.run_dir / "checkpoint-1", False)
    plain.on_record(run.context, {"step": 1, "epoch": 0.25, "loss": 1.0})
    lines = file.getvalue().splitlines()
    assert "loss" in lines[-2]
    assert "checkpoint-1" in lines[-1]


def test_long_steps_and_validations_are_not_silent(run: Any, log: Any) -> None:
    plain, file = log
    run.start(plain)
    before = len(file.getvalue().splitlines())
    for done in range(1, 5):
        run.clock.now += 10
        plain.on_micro_batch(run.context, done, 5)
    plain.on_validation_start(run.context, 3)
    for _ in range(3):
        run.clock.now += 20
        plain.on_validation_batch(run.context)
    assert file.getvalue().splitlines()[before:] == [
        "step  0/12 micro-batch 2/5",
        "step  0/12 micro-batch 4/5",
        "step  0/12 validating: 3 batches",
        "step  0/12 validating: batch 1/3",
        "step  0/12 validating: batch 2/3",
        "step  0/12 validating: batch 3/3",
    ]


def test_hostile_text_stays_on_its_line(run: Any, log: Any, hostile: str) -> None:
    plain, file = log
    run.context.notes.append(f"{hostile}\nstep 12/12 completed")
    run.context.request_stop(hostile)
    plain.on_fit_start(run.context)
    plain.on_fit_end(run.context, "stopped")
    text = file.getvalue()
    assert not any(char in text for char in "\x1b\x07\u202e\u200b")
    assert len(text.splitlines()) == 4
    assert "[bold red]note[/bold red]" in text


def test_the_forecast_is_told_once_from_measured_steps(run: Any) -> None:
    forecast = Forecast(answered_tokens=60_000, clock=run.clock)
    run.start(forecast)
    before = list(run.context.notes)
    for _ in range(FORECAST_AFTER - 1):
        run.step(forecast)
    assert run.context.notes == before, "the first steps are slow: not yet"
    for _ in range(3):
        run.step(forecast)
    (note,) = [each for each in run.context.notes if each not in before]
    # 6 s and 6,000 tokens a step: a token takes 1 ms to train.
    assert f"evaluation 0:{FORWARD_SHARE * 60:.0f}" in note
    assert note.startswith("about ")
    assert "training " in note


def test_without_an_evaluation_none_is_told(run: Any) -> None:
    forecast = Forecast(answered_tokens=0, clock=run.clock)
    run.start(forecast)
    for _ in range(FORECAST_AFTER):
        run.step(forecast)
    assert "evaluation" not in run.context.notes[-1]
