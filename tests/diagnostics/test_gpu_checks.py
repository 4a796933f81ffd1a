from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from llmcausal.config import RunConfig
from llmcausal.diagnostics import gpu, machine
from llmcausal.diagnostics.check import Facts, ProfileNeed, StrategyNeed
from llmcausal.diagnostics.machine import Gpu, GpuProcess, Torch

GIB = 2**30
MIB = 2**20
Make = Callable[..., Facts]
Change = Callable[..., RunConfig]
PASCAL = Gpu("NVIDIA GeForce GTX 1060", 6 * GIB, 5 * GIB, (6, 1))


def test_the_cpu_passes_and_is_named(on_cpu: Make) -> None:
    check = gpu.check_device(on_cpu())
    assert (check.status, check.detail) == ("pass", "torch 2.13.0+cpu, CPU, 4 thread(s)")
    assert gpu.check_driver(on_cpu()).status == "pass"


def test_checks_of_the_gpu_say_nothing_on_a_cpu(on_cpu: Make) -> None:
    for check in (
        gpu.check_precision,
        gpu.check_attention,
        gpu.check_gpu_memory,
        gpu.check_spill,
        gpu.check_pinned_memory,
    ):
        assert check(on_cpu()) is None


def test_a_gpu_is_described(on_gpu: Make) -> None:
    check = gpu.check_device(on_gpu())
    assert check.status == "pass"
    assert check.detail == "torch 2.13.0+cu126, NVIDIA GeForce RTX 4050 (sm_89)"


def test_fp16_on_the_cpu_fails(config: RunConfig, on_cpu: Make, change: Change) -> None:
    check = gpu.check_device(on_cpu(change(config, "model", precision="fp16")))
    assert check.status == "fail"
    assert "needs CUDA" in check.detail
    assert "model.precision=auto" in check.fix


@pytest.mark.parametrize(
    ("driver_cuda", "built", "status"),
    [
        ((11, 8), (12, 6), "warning"),
        ((12, 4), (12, 8), "pass"),  # minor versions are compatible
        ((13, 0), (12, 6), "pass"),
        ((12, 9), (13, 0), "warning"),
        (None, (12, 6), "pass"),
        ((12, 4), None, "pass"),
    ],
)
def test_driver_against_torch(
    on_gpu: Make,
    driver_cuda: tuple[int, int] | None,
    built: tuple[int, int] | None,
    status: str,
) -> None:
    check = gpu.check_driver(on_gpu(driver_cuda=driver_cuda, torch=Torch("2.13", built)))
    assert check.status == status
    assert "560.35.03" in check.detail
    if status == "warning":
        assert driver_cuda is not None
        assert "update the NVIDIA driver here" in check.fix
        assert f"CUDA {driver_cuda[0]}.{driver_cuda[1]} or older" in check.fix


def test_an_old_driver_fails_where_cuda_is_asked_for(
    config: RunConfig, change: Change, on_gpu: Make
) -> None:
    asked = change(config, "model", device="cuda")
    assert gpu.check_driver(on_gpu(asked, driver_cuda=(11, 8))).status == "fail"


def test_a_driver_that_tells_nothing_passes_where_torch_works(
    config: RunConfig, change: Change, on_gpu: Make
) -> None:
    asked = change(config, "model", device="cuda")
    assert gpu.check_driver(on_gpu(asked, driver=None, driver_cuda=None)).status == "pass"


def test_an_old_driver_below_wsl_is_updated_in_windows(on_gpu: Make) -> None:
    check = gpu.check_driver(on_gpu(wsl=True, driver_cuda=(11, 8)))
    assert "driver in Windows" in check.fix


def test_no_driver_fails_only_where_cuda_is_asked_for(
    config: RunConfig, on_cpu: Make, change: Change
) -> None:
    asked = change(config, "model", device="cuda")
    check = gpu.check_driver(on_cpu(asked))
    assert check.status == "fail"
    assert "install the NVIDIA driver" in check.fix
    device = gpu.check_device(on_cpu(asked))
    assert (device.status, device.detail) == ("fail", "torch 2.13.0+cpu: there is no NVIDIA GPU")
    assert "model.device=cpu" in device.fix


@pytest.mark.parametrize(("asked", "status"), [("auto", "warning"), ("cuda", "fail")])
def test_a_torch_without_cuda_beside_a_gpu(
    on_gpu: Make, config: RunConfig, change: Change, asked: str, status: str
) -> None:
    profile = change(config, "model", device=asked)
    without = Torch("2.13.0+cpu")
    check = gpu.check_device(on_gpu(profile, torch=without))
    assert check.status == status
    assert "cannot use the NVIDIA GeForce RTX 4050" in check.detail
    assert "CUDA build of torch" in check.fix
    assert "Windows" not in check.fix
    windows = gpu.check_device(on_gpu(profile, torch=without, system="Windows AMD64"))
    assert "PyPI's torch for Windows has no CUDA" in windows.fix


def test_hidden_gpus_and_broken_drivers_are_told_apart(on_gpu: Make) -> None:
    blind = Torch("2.13.0+cu126", (12, 6))
    assert gpu.check_device(on_gpu(torch=blind, gpus_hidden=True)).fix == (
        "unset CUDA_VISIBLE_DEVICES"
    )
    assert "torch.cuda.init()" in gpu.check_device(on_gpu(torch=blind)).fix


def test_a_gpu_too_old_for_this_torch_fails(on_gpu: Make) -> None:
    check = gpu.check_device(on_gpu(gpus=(PASCAL,)))
    assert check.status == "fail"
    assert "(sm_61), but this torch is built for sm_75, sm_80, sm_86, sm_90" in check.detail
    assert "a torch that has sm_61" in check.fix


@pytest.mark.parametrize(
    ("kernels", "runs"),
    [
        (("sm_80",), True),  # the same major version
        (("sm_90",), False),
        (("sm_75",), False),
        (("sm_75", "compute_75"), True),  # PTX is compiled for newer GPUs
        (("sm_90a",), False),
        ((), True),  # unknown
    ],
)
def test_kernels_that_an_rtx_4050_can_run(
    on_gpu: Make, kernels: tuple[str, ...], runs: bool
) -> None:
    built = Torch("2.13", (12, 6), True, kernels)
    assert (gpu.check_device(on_gpu(torch=built)).status == "pass") == runs


@pytest.mark.parametrize(
    ("capability", "precision", "status", "detail"),
    [
        ((8, 9), "auto", "pass", "sm_89: fp16 and bf16; bf16 is used"),
        ((7, 5), "auto", "pass", "sm_75: fp16 and no bf16; fp16 is used"),
        ((7, 5), "bf16", "fail", "sm_75: fp16 and no bf16"),
        ((8, 0), "bf16", "pass", "sm_80: fp16 and bf16"),
    ],
)
def test_number_formats(
    config: RunConfig,
    change: Change,
    on_gpu: Make,
    capability: tuple[int, int],
    precision: str,
    status: str,
    detail: str,
) -> None:
    profile = change(config, "model", device="cuda", precision=precision)
    card = replace(PASCAL, capability=capability)
    check = gpu.check_precision(on_gpu(profile, gpus=(card,)))
    assert check is not None
    assert (check.status, check.detail) == (status, detail)
    assert (check.fix == "--set model.precision=fp16") == (status == "fail")


@pytest.mark.parametrize(
    ("working", "status"),
    [(("flash", "memory-efficient"), "pass"), (("memory-efficient",), "pass"), ((), "warning")],
)
def test_attention_kernels_are_told(
    on_gpu: Make, monkeypatch: pytest.MonkeyPatch, working: tuple[str, ...], status: str
) -> None:
    monkeypatch.setattr("llmcausal.model.device.has_bf16", lambda: True)
    monkeypatch.setattr(machine, "attention_kernels", lambda *_: working)
    check = gpu.check_attention(on_gpu())
    assert check is not None
    assert check.status == status
    assert bool(check.fix) == (status == "warning")
    assert all(name in check.detail for name in working)
    assert ("flash does not" in check.detail) == (working == ("memory-efficient",))


def test_attention_kernels_really_run_here() -> None:
    found = machine.attention_kernels(torch.device("cpu"), torch.float32)
    assert found == ("flash",)  # torch has no memory-efficient kernel for CPUs


def test_programs_that_hold_the_gpu_are_named(on_gpu: Make) -> None:
    assert gpu.check_gpu_memory(on_gpu()).status == "pass"  # the desktop's share
    processes = (
        GpuProcess(71, "python", 3000 * MIB),
        GpuProcess(72, "", None),
        *(GpuProcess(80 + number, "game", 10 * MIB) for number in range(3)),
    )
    full = Gpu("RTX", 6 * GIB, 2 * GIB, (8, 9), processes)
    check = gpu.check_gpu_memory(on_gpu(gpus=(full,)))
    assert check.status == "warning"
    assert check.detail == (
        "2.0 GiB free of 6.0; held by python (pid 71) 3,000 MiB, a program (pid 72), "
        "game (pid 80) 10 MiB, 2 more"
    )
    assert check.fix.startswith("close python (pid 71)")
    unnamed = gpu.check_gpu_memory(on_gpu(gpus=(replace(full, processes=()),)))
    assert "nvidia-smi" in unnamed.fix


@pytest.mark.parametrize("changes", [{"wsl": True}, {"system": "Windows AMD64"}])
def test_the_windows_driver_spills_unless_a_budget_is_set(
    on_gpu: Make, change: Change, changes: dict[str, object]
) -> None:
    assert gpu.check_spill(on_gpu()).status == "pass"
    check = gpu.check_spill(on_gpu(**changes))
    assert check.status == "warning"
    assert "Sysmem Fallback Policy" in check.fix
    assert check.fix.endswith("--set memory.budget_gb=5.5")
    limited = change(on_gpu().config, "memory", budget_gb=4.5)
    assert gpu.check_spill(on_gpu(limited, **changes)).status == "pass"


def test_pinned_memory_against_what_the_profile_wants(
    on_gpu: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(machine, "pinnable_bytes", lambda most: asked.append(most) or 2 * GIB)
    assert gpu.check_pinned_memory(on_gpu()).status == "pass"
    need = ProfileNeed("mine", "m", 512, (StrategyNeed("lean", GIB, 3 * GIB),))
    check = gpu.check_pinned_memory(replace(on_gpu(wsl=True), own=need))
    assert check.status == "warning"
    assert "2.0 GiB of host memory can be pinned, 3.0 wanted" in check.detail
    assert ".wslconfig" in check.fix
    assert asked == [GIB, 3 * GIB]


def test_pinning_stops_where_the_driver_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = []

    def pin(size: int, **_: object) -> object:
        if len(pinned) == 3:
            raise RuntimeError("CUDA error: out of memory")
        pinned.append(size)
        return object()

    monkeypatch.setattr(torch, "empty", pin)
    assert machine.pinnable_bytes(10 * MIB, block=MIB) == 3 * MIB
    pinned.clear()
    assert machine.pinnable_bytes(2 * MIB, block=MIB) == 2 * MIB
