"""Which precision a run takes, and that it keeps it."""

from __future__ import annotations

import time

import pytest
import torch

from llmcausal.model import device
from llmcausal.model.device import bf16_speedup, choose_dtype, settled_precision

CPU = torch.device("cpu")


def test_bf16_is_really_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "has_bf16_instructions", lambda: True)
    small = {"tokens": 64, "width": 64, "hidden": 64, "rounds": 3}
    assert 0.001 < bf16_speedup.__wrapped__(**small) < 100
    # A clock on which fp32 takes 3 s and bf16 1 s, in turns.
    ticks = iter([0, 3, 0, 1] * 4)
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    assert bf16_speedup.__wrapped__(**small) == 3


def test_the_measurement_takes_less_than_half_a_second() -> None:
    if not device.has_bf16_instructions():
        pytest.skip("no bf16 instructions here, so nothing is measured")
    start = time.process_time()
    bf16_speedup.__wrapped__()
    assert time.process_time() - start < 0.5 * torch.get_num_threads() + 0.5


def test_without_instructions_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "has_bf16_instructions", lambda: False)
    monkeypatch.setattr(time, "perf_counter", lambda: pytest.fail("measured"))
    assert bf16_speedup.__wrapped__() == 0


@pytest.mark.parametrize(
    ("speedup", "taken"), [(0.0, "fp32"), (1.49, "fp32"), (1.5, "bf16"), (6.0, "bf16")]
)
def test_auto_on_a_cpu_is_what_is_faster(
    monkeypatch: pytest.MonkeyPatch, speedup: float, taken: str
) -> None:
    monkeypatch.setattr(device, "bf16_speedup", lambda: speedup)
    assert choose_dtype("auto", CPU) == device.DTYPES[taken]
    precision, note = settled_precision("auto", CPU)
    assert precision == taken
    assert note.startswith(f"precision: {taken}; ")
    assert settled_precision(taken, CPU) == (taken, "")
    other = "fp32" if taken == "bf16" else "bf16"
    kept, note = settled_precision(other, CPU)
    assert kept == other
    assert f"auto would take {taken}" in note


def test_a_gpu_with_bf16_settles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "has_bf16", lambda: True)
    assert settled_precision("auto", torch.device("cuda")) == ("auto", "")
