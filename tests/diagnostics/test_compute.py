from __future__ import annotations

from collections.abc import Callable

import pynvml
import pytest
import torch

from llmcausal.config import RunConfig
from llmcausal.diagnostics import compute

GIB = 2**30
Change = Callable[..., RunConfig]


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_the_cpu_passes_and_is_named(config: RunConfig) -> None:
    check = compute.check_device(config)
    assert check.status == "pass"
    assert f"torch {torch.__version__}, CPU" in check.detail


@pytest.mark.usefixtures("no_cuda")
def test_cuda_asked_for_and_absent_fails(config: RunConfig, change: Change) -> None:
    check = compute.check_device(change(config, "model", device="cuda"))
    assert check.status == "fail"
    assert "no CUDA device" in check.detail
    assert "model.device=cpu" in check.fix


def test_fp16_on_the_cpu_fails(config: RunConfig, change: Change) -> None:
    check = compute.check_device(change(config, "model", precision="fp16"))
    assert check.status == "fail"
    assert "fp16" in check.detail


@pytest.mark.usefixtures("no_cuda")
def test_a_gpu_that_torch_cannot_use_is_a_warning(
    config: RunConfig, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compute, "nvidia_name", lambda: "NVIDIA Something")
    monkeypatch.setattr(torch.version, "cuda", None)
    check = compute.check_device(change(config, "model", device="auto"))
    assert check.status == "warning"
    assert "cannot use the NVIDIA Something" in check.detail
    assert "CUDA build of torch" in check.fix


def test_no_driver_means_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    assert compute.nvidia_name() is None


@pytest.mark.parametrize("bf16", [True, False])
def test_a_gpu_is_described(
    config: RunConfig, change: Change, monkeypatch: pytest.MonkeyPatch, bf16: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: bf16)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (5 * GIB, 6 * GIB))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "RTX")
    on_gpu = change(config, "model", device="auto", precision="auto")
    check = compute.check_device(on_gpu)
    assert check.status == "pass"
    assert check.detail.endswith(f"RTX, 5.0 GiB free of 6.0, {'bf16' if bf16 else 'no bf16'}")
    wanted = compute.check_device(change(on_gpu, "model", precision="bf16"))
    assert wanted.status == ("pass" if bf16 else "fail")
    assert compute.check_bf16(on_gpu).status == "pass"


def test_bitsandbytes_really_works_here(config: RunConfig) -> None:
    check = compute.check_bitsandbytes(config)
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
    config: RunConfig,
    monkeypatch: pytest.MonkeyPatch,
    errors: tuple[float, float],
    moved: bool,
    message: str,
) -> None:
    monkeypatch.setattr(compute, "nf4_errors", lambda _: errors)
    monkeypatch.setattr(compute, "adamw8bit_moves", lambda _: moved)
    check = compute.check_bitsandbytes(config)
    assert check.status == "fail"
    assert message in check.detail
    assert check.fix


def test_bitsandbytes_that_cannot_run_fails(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: torch.device) -> tuple[float, float]:
        raise OSError("libbitsandbytes.so:\n cannot open")

    monkeypatch.setattr(compute, "nf4_errors", broken)
    check = compute.check_bitsandbytes(config)
    assert check.status == "fail"
    assert check.detail == "OSError: libbitsandbytes.so: cannot open"
    assert "pip install" in check.fix


@pytest.mark.parametrize(
    ("ratio", "precision", "status"),
    [(20.0, "bf16", "warning"), (20.0, "fp32", "pass"), (0.5, "bf16", "pass")],
)
def test_slow_bf16_is_told_where_it_is_used(
    config: RunConfig,
    change: Change,
    monkeypatch: pytest.MonkeyPatch,
    ratio: float,
    precision: str,
    status: str,
) -> None:
    monkeypatch.setattr(compute, "bf16_slowdown", lambda: ratio)
    check = compute.check_bf16(change(config, "model", precision=precision))
    assert check.status == status
    assert f"{ratio:.1f} times" in check.detail
    assert ("fp32" in check.fix) == (status == "warning")


def test_bf16_is_really_timed() -> None:
    assert 0.01 < compute.bf16_slowdown(size=128, rounds=2) < 1000
