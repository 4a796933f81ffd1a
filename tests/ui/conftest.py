"""A scripted run for the screens: no model, no torch, a manual clock."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from llmcausal.config import RunConfig
from llmcausal.train.callback import Callback, FitContext, TrainState
from llmcausal.train.callbacks.monitors import MemoryMonitor, MemoryUsage

HOSTILE = "\x1b[2J\x1b]0;owned\x07[bold red]note[/bold red]\u202egnp.exe\u200b"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class ScriptedRun:
    """Drives one callback as the loop would: 6 s a step, 2 micro-batches, 4 s a validation."""

    def __init__(self, run_dir: Path) -> None:
        self.clock = Clock()
        self.memory = MemoryMonitor()
        self.memory.usage = MemoryUsage(3 * 2**30, None)
        self.memory.limit_bytes = 6 * 2**30
        self.context = FitContext(
            config=RunConfig.model_validate({"name": "scripted", "validation": {"every_steps": 4}}),
            run_dir=run_dir,
            state=TrainState(),
            total_steps=12,
            steps_per_epoch=4,
            device="cuda:0",  # type: ignore[arg-type]
            samples={"train": 64, "validation": 8},
            save_checkpoint=lambda: run_dir,
            save_best=lambda: run_dir,
            notes=["SmolLM2-135M-Instruct, 4.9 M trained parameters"],
        )

    def validation(self, callback: Callback, record: dict[str, Any], value: float) -> None:
        callback.on_validation_start(self.context, 2)
        for _ in range(2):
            self.clock.now += 2
            callback.on_validation_batch(self.context)
        record |= {"val_loss": value, "val_causal_stability": 0.95}

    def record(self, callback: Callback, record: dict[str, Any]) -> None:
        callback.on_step_end(self.context, record)
        callback.on_record(self.context, record)
        state = self.context.state
        best = math.inf if state.best_value is None else state.best_value
        if state.step and record.get("val_loss", math.inf) < best:
            state.best_value, state.best_step = record["val_loss"], state.step
            callback.on_checkpoint(self.context, self.context.run_dir / "best", True)

    def start(self, callback: Callback) -> None:
        callback.on_fit_start(self.context)
        record: dict[str, Any] = {"step": 0, "epoch": 0.0}
        self.validation(callback, record, 3.5)
        self.record(callback, record)

    def micro_batches(self, callback: Callback, done: int, seconds: float = 3.0) -> None:
        for index in range(1, done + 1):
            self.clock.now += seconds
            callback.on_micro_batch(self.context, index, 2)

    def step(self, callback: Callback, **figures: Any) -> None:
        self.micro_batches(callback, 2)
        state = self.context.state
        state.step += 1
        record = {
            "step": state.step,
            "epoch": state.step / 4,
            "loss": 2.5 - state.step / 10,
            "task_loss": 1.25,
            "robust_loss": 0.75,
            "contrastive_loss": -0.5,
            "causal_stability": 0.91,
            "spurious_separation": 0.42,
            "causal_discrimination": 0.33,
            "grad_norm": 1.125,
            "learning_rate": 2e-4,
            "tokens": 6000,
            "seconds": 6.0,
            **figures,
        }
        if state.step % 4 == 0:
            self.validation(callback, record, 3.0 - state.step / 10)
        self.record(callback, record)


@pytest.fixture
def run(tmp_path: Path) -> ScriptedRun:
    return ScriptedRun(tmp_path)


@pytest.fixture
def hostile() -> str:
    return HOSTILE


@pytest.fixture
def draw() -> Callable[..., str]:
    """Renders anything to text of a given width, as on a terminal without color."""

    def render(renderable: Any, width: int = 80, height: int = 24) -> str:
        file = io.StringIO()
        console = Console(file=file, width=width, height=height, markup=False, highlight=False)
        console.print(renderable)
        return file.getvalue()

    return render
