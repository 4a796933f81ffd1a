from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from llmcausal.config import RunConfig
from llmcausal.diagnostics import compute
from llmcausal.diagnostics.facts import Facts

Change = Callable[..., RunConfig]
Make = Callable[..., Facts]


def test_a_torch_that_cannot_be_imported_fails(on_cpu: Make) -> None:
    check = compute.check_torch(on_cpu(torch=None, torch_problem="OSError: libcudart.so"))
    assert check.status == "fail"
    assert "OSError: libcudart.so" in check.detail
    assert "pip install" in check.fix


def test_torch_tells_its_cuda_build(on_cpu: Make, on_gpu: Make) -> None:
    assert compute.check_torch(on_cpu()).detail == "2.13.0+cpu, without CUDA"
    assert compute.check_torch(on_gpu()).detail == "2.13.0+cu126, CUDA 12.6"


def test_bitsandbytes_really_works_here(on_cpu: Make) -> None:
    check = compute.check_bitsandbytes(on_cpu())
    assert (check.status, check.fix) == ("pass", "")


def test_nf4_rounds_as_much_as_nf4_should() -> None:
    rounding, product = compute.nf4_errors(torch.device("cpu"))
    assert 0.05 < rounding < compute.MOST_NF4_ROUNDING
    assert product < 1e-5


@pytest.mark.parametrize(
    ("errors", "moved", "message"),
    [
        ((0.5, 0.0), True, "NF4 rounds by 50%"),
        ((0.09, 0.2), True, "product is off by 20%"),
        ((0.09, 0.0), False, "leaves the weights as they are"),
    ],
)
def test_bitsandbytes_that_computes_wrongly_fails(
    on_cpu: Make,
    monkeypatch: pytest.MonkeyPatch,
    errors: tuple[float, float],
    moved: bool,
    message: str,
) -> None:
    monkeypatch.setattr(compute, "nf4_errors", lambda _: errors)
    monkeypatch.setattr(compute, "adamw8bit_moves", lambda _: moved)
    check = compute.check_bitsandbytes(on_cpu())
    assert check.status == "fail"
    assert message in check.detail
    assert check.fix


def test_bitsandbytes_that_cannot_run_fails(on_cpu: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: torch.device) -> tuple[float, float]:
        raise OSError("libbitsandbytes.so:\n cannot open")

    monkeypatch.setattr(compute, "nf4_errors", broken)
    check = compute.check_bitsandbytes(on_cpu())
    assert check.status == "fail"
    assert check.detail == "OSError: libbitsandbytes.so: cannot open"
    assert "pip install" in check.fix


@pytest.mark.parametrize(
    ("ratio", "precision", "status"),
    [(20.0, "bf16", "warning"), (20.0, "fp32", "pass"), (0.5, "bf16", "pass")],
)
def test_slow_bf16_is_told_where_it_is_used(
    config: RunConfig,
    on_cpu: Make,
    change: Change,
    monkeypatch: pytest.MonkeyPatch,
    ratio: float,
    precision: str,
    status: str,
) -> None:
    monkeypatch.setattr(compute, "bf16_slowdown", lambda: ratio)
    check = compute.check_bf16(on_cpu(change(config, "model", precision=precision)))
    assert check is not None
    assert check.status == status
    assert f"{ratio:.2g} times" in check.detail
    assert ("fp32" in check.fix) == (status == "warning")


def test_bf16_is_not_timed_on_a_gpu(on_gpu: Make) -> None:
    assert compute.check_bf16(on_gpu()) is None


def test_bf16_is_really_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0.01 < compute.bf16_slowdown(tokens=64, width=64, hidden=64, rounds=3) < 1000
    # A clock on which bf16 takes three times as long: fp32 1 s, bf16 3 s, in turns.
    ticks = iter([time for turn in range(4) for time in (10 * turn, 10 * turn + 1, 0, 3)])
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    assert compute.bf16_slowdown(tokens=8, width=8, hidden=8, rounds=3) == 3.0
