from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from llmcausal.config import RunConfig
from llmcausal.diagnostics import environment
from llmcausal.diagnostics.check import Facts
from llmcausal.model import device

Change = Callable[..., RunConfig]
Make = Callable[..., Facts]


def test_a_torch_that_cannot_be_imported_fails(on_cpu: Make) -> None:
    check = environment.check_torch(on_cpu(torch=None, torch_problem="OSError: libcudart.so"))
    assert check.status == "fail"
    assert "OSError: libcudart.so" in check.detail
    assert "pip install" in check.fix


def test_torch_tells_its_cuda_build(on_cpu: Make, on_gpu: Make) -> None:
    assert environment.check_torch(on_cpu()).detail == "2.13.0+cpu, without CUDA"
    assert environment.check_torch(on_gpu()).detail == "2.13.0+cu126, CUDA 12.6"


def test_bitsandbytes_really_works_here(on_cpu: Make) -> None:
    check = environment.check_bitsandbytes(on_cpu())
    assert (check.status, check.fix) == ("pass", "")


@pytest.mark.parametrize("wsl", [True, False])
def test_the_doctor_pages_nothing_under_the_windows_driver(
    on_gpu: Make, monkeypatch: pytest.MonkeyPatch, wsl: bool
) -> None:
    tried: list[bool] = []
    monkeypatch.setattr(environment, "nf4_errors", lambda _: (0.09, 0.0))
    monkeypatch.setattr(
        environment, "adamw8bit_moves", lambda _, *, paged: tried.append(paged) or True
    )
    check = environment.check_bitsandbytes(on_gpu(wsl=wsl))
    assert tried == [not wsl]
    assert check.status == "pass"
    assert ("its states not paged" in check.detail) == wsl


def test_nf4_rounds_as_much_as_nf4_should() -> None:
    rounding, product = environment.nf4_errors(torch.device("cpu"))
    assert 0.05 < rounding < environment.MOST_NF4_ROUNDING
    assert product < 1e-5


@pytest.mark.parametrize(
    ("errors", "moved", "message"),
    [
        ((0.5, 0.0), True, "NF4 rounds by 50%"),
        ((0.09, 0.2), True, "product is off by 20%"),
        ((0.09, 0.0), False, "does not change the weights"),
    ],
)
def test_bitsandbytes_that_computes_wrongly_fails(
    on_cpu: Make,
    monkeypatch: pytest.MonkeyPatch,
    errors: tuple[float, float],
    moved: bool,
    message: str,
) -> None:
    monkeypatch.setattr(environment, "nf4_errors", lambda _: errors)
    monkeypatch.setattr(environment, "adamw8bit_moves", lambda *_, **__: moved)
    check = environment.check_bitsandbytes(on_cpu())
    assert check.status == "fail"
    assert message in check.detail
    assert check.fix


def test_bitsandbytes_that_cannot_run_fails(on_cpu: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: torch.device) -> tuple[float, float]:
        raise OSError("libbitsandbytes.so:\n cannot open")

    monkeypatch.setattr(environment, "nf4_errors", broken)
    check = environment.check_bitsandbytes(on_cpu())
    assert check.status == "fail"
    assert check.detail == "OSError: libbitsandbytes.so: cannot open"
    assert "pip install" in check.fix


@pytest.mark.parametrize(
    ("speedup", "precision", "status", "told"),
    [
        (0.0, "bf16", "warning", "no instructions"),
        (1.2, "bf16", "warning", "1.2 times as fast"),
        (2.0, "bf16", "pass", "2 times as fast"),
        (2.0, "auto", "pass", "bf16 is used"),
        (1.2, "auto", "pass", "fp32 is used"),
        (2.0, "fp32", "pass", "the profile uses fp32"),
    ],
)
def test_bf16_is_told_as_it_was_measured(
    config: RunConfig,
    on_cpu: Make,
    change: Change,
    monkeypatch: pytest.MonkeyPatch,
    speedup: float,
    precision: str,
    status: str,
    told: str,
) -> None:
    monkeypatch.setattr(device, "bf16_speedup", lambda: speedup)
    check = environment.check_bf16(on_cpu(change(config, "model", precision=precision)))
    assert check is not None
    assert check.status == status
    assert told in check.detail
    assert ("fp32" in check.fix) == (status == "warning")


def test_bf16_is_not_timed_on_a_gpu(on_gpu: Make) -> None:
    assert environment.check_bf16(on_gpu()) is None
