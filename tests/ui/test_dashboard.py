"""The live screen, drawn for terminals of many sizes."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from llmcausal.train.callbacks.monitors import MemoryMonitor
from llmcausal.ui.progress import Dashboard


def terminal(width: int, height: int, file: io.StringIO | None = None) -> Console:
    return Console(
        file=file or io.StringIO(), width=width, height=height, force_terminal=True, markup=False
    )


def dashboard(run: Any, width: int = 80, height: int = 24) -> Dashboard:
    return Dashboard(terminal(width, height), run.memory, run.clock)


def drawn(board: Dashboard, draw: Callable[..., str], width: int = 80, height: int = 24) -> str:
    board._console.size = (width, height)  # type: ignore[assignment]
    return draw(board.render(), width, height)


@pytest.fixture
def started(run: Any) -> Any:
    boards: list[Dashboard] = []

    def start(steps: int = 0) -> Dashboard:
        board = dashboard(run)
        boards.append(board)
        run.start(board)
        for _ in range(steps):
            run.step(board)
        return board

    yield start
    for board in boards:
        board.on_fit_end(run.context, "completed")


def test_an_ordinary_terminal_shows_everything(run: Any, started: Any, draw: Any) -> None:
    board = started(6)
    board.on_checkpoint(run.context, run.context.run_dir / "checkpoint-6", False)
    run.clock.now += 65
    text = drawn(board, draw)
    lines = text.splitlines()
    assert len(lines) <= 23
    assert all(cell_len(line) <= 80 for line in lines)
    for expected in (
        "llmcausal · scripted",
        "step 6/12",
        "50%",
        "epoch 1.50/3",
        "cuda:0 · 64 train, 8 validation triplets",
        "6.0 s/step",
        "loss              1.9000 █",
        "task              1.2500",
        "robust            0.7500",
        "contrastive      -0.5000",
        "stability         0.9100",
        "separation        0.4200",
        "discrimination    0.3300",
        "learning rate   2.00e-04",
        "gradient norm     1.1250",
        "tokens/s           1,000",
        "3.00 of 6.00 GiB 50%",
        "validation · step 4",
        "loss              2.6000",
        "best val_loss 2.6000 (step 4)",
        "checkpoint-6 (1:05 ago)",
        "SmolLM2-135M-Instruct",
        "Ctrl-C saves and stops",
    ):
        assert expected in text, expected


def test_sparklines_follow_the_values(run: Any, started: Any, draw: Any) -> None:
    text = drawn(started(8), draw)
    row = next(line for line in text.splitlines() if "loss              1.7000" in line)
    assert "█▇▆▅▄▃▂▁" in row


def test_no_eta_until_a_step_is_measured(run: Any, started: Any, draw: Any) -> None:
    board = started(0)
    run.micro_batches(board, 1)
    text = drawn(board, draw)
    assert "ETA" not in text
    assert "s/step" not in text
    assert "micro-batch 1/2" in text
    run.micro_batches(board, 2)
    run.step(board)
    # 11 steps of 6 s, and 3 validations of 4 s as measured at the start.
    assert "ETA 1:18" in drawn(board, draw)
    run.clock.now += 10
    assert "ETA 1:08" in drawn(board, draw)


def test_validation_progress_replaces_micro_batches(run: Any, started: Any, draw: Any) -> None:
    board = started(1)
    board.on_validation_start(run.context, 7)
    board.on_validation_batch(run.context)
    assert "validating 1/7" in drawn(board, draw)


def test_running_means_are_preferred(run: Any, started: Any, draw: Any) -> None:
    board = started(0)
    run.step(board, causal_stability_mean=0.8765)
    text = drawn(board, draw)
    assert "stability         0.8765" in text
    assert "separation        0.4200" in text
    assert "running means" in text


def test_terms_that_are_off_are_not_shown(run: Any, started: Any, draw: Any) -> None:
    board = started(0)
    run.micro_batches(board, 2)
    run.context.state.step = 1
    run.record(board, {"step": 1, "epoch": 0.25, "loss": 1.0, "task_loss": 1.0, "seconds": 6.0})
    text = drawn(board, draw)
    assert "robust" not in text
    assert "not measured" in text


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(width=st.integers(1, 220), height=st.integers(1, 70), steps=st.integers(0, 3))
def test_any_size_fits(run: Any, draw: Any, width: int, height: int, steps: int) -> None:
    board = dashboard(run)
    run.context.state.step = 0
    run.start(board)
    try:
        for _ in range(steps):
            run.step(board)
        lines = drawn(board, draw, width, height).splitlines()
        assert len(lines) <= max(height - 1, 1)
        assert all(cell_len(line) <= width for line in lines)
        if width >= 14:
            assert any(f"step {steps}/12" in line for line in lines)
    finally:
        board.on_fit_end(run.context, "completed")


def test_hostile_text_cannot_reach_the_terminal(
    run: Any, started: Any, draw: Any, hostile: str
) -> None:
    board = started(1)
    run.context.notes.append(hostile)
    run.context.request_stop(hostile)
    board.on_checkpoint(run.context, run.context.run_dir / hostile, False)
    text = drawn(board, draw, 200, 40)
    assert "[bold red]note[/bold red]gnp.exe" in text
    assert not any(char in text for char in "\x1b\x07\u202e\u200b")


def test_non_finite_figures_are_drawn(run: Any, started: Any, draw: Any) -> None:
    board = started(1)
    run.step(board, loss=float("nan"), grad_norm=float("inf"), tokens=None)
    text = drawn(board, draw)
    assert "nan" in text
    assert "inf" in text


def test_a_stop_and_the_end_are_told(run: Any, started: Any, draw: Any) -> None:
    board = started(2)
    run.context.request_stop("early stopping: val_loss has not improved")
    assert "stopping after this step: early stopping" in drawn(board, draw)
    run.context.notes.extend(f"note number {index}" for index in range(30))
    board.on_fit_end(run.context, "stopped")
    text = drawn(board, draw)
    assert " stopped: early stopping: val_loss has not improved" in text
    assert "Ctrl-C" not in text
    assert "ETA" not in text
    assert "note number 0" in text  # the last picture may scroll
    assert "note number 29" in text


def test_a_resumed_run_shows_its_earlier_rows(run: Any, draw: Any) -> None:
    rows = [{"step": 0, "val_loss": 9.0}, {"step": 1, "loss": 4.0}, {"step": 2, "loss": 2.0}]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (run.context.run_dir / "metrics.jsonl").write_text(text)
    run.context.state.step = 2
    run.context.state.train_seconds = 3600.0
    board = dashboard(run)
    board.on_fit_start(run.context)
    text = drawn(board, draw)
    board.on_fit_end(run.context, "completed")
    assert "loss              2.0000 █▁" in text
    assert "loss              9.0000" in text
    assert "elapsed 1:00:00" in text
    assert "ETA" not in text  # nothing was measured in this session


def test_it_redraws_by_itself_while_nothing_happens(run: Any) -> None:
    file = io.StringIO()
    board = Dashboard(terminal(80, 24, file), MemoryMonitor(), time.monotonic)
    run.start(board)
    before = len(file.getvalue())
    deadline = time.monotonic() + 10
    while "elapsed 0:01" not in file.getvalue() and time.monotonic() < deadline:
        time.sleep(0.05)
    board.on_fit_end(run.context, "failed")
    assert "elapsed 0:01" in file.getvalue()[before:]
    assert file.getvalue().rstrip().endswith("\x1b[?25h")  # the cursor is shown again


def test_ascii_terminals_get_ascii_bars(run: Any, started: Any) -> None:
    board = started(6)
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, "ascii", write_through=True), width=80, height=24)
    board._console = console
    console.print(board.render())
    text = raw.getvalue().decode("ascii")
    assert "step 6/12 ====" in text
    assert "loss              1.9000 #" in text
