from __future__ import annotations

import importlib.util
from collections.abc import Callable

import pytest

from llmcausal.config import RunConfig
from llmcausal.diagnostics.check import Facts
from llmcausal.diagnostics.environment import check_trackers
from llmcausal.errors import ConfigError

Make = Callable[..., Facts]
Change = Callable[..., RunConfig]


def test_no_tracker_is_fine(on_cpu: Make) -> None:
    assert check_trackers(on_cpu()).status == "pass"


def test_a_tracker_that_is_not_installed_fails_with_its_pip_line(
    config: RunConfig, change: Change, on_cpu: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "wandb" else find(name)
    )
    check = check_trackers(on_cpu(change(config, "tracking", trackers=("wandb",))))
    assert check.status == "fail"
    assert "wandb: wandb is not installed: pip install 'llmcausal[wandb]'" in check.detail
    assert "tracking.trackers=[]" in check.fix


def test_a_tracker_that_is_offline_says_so(config: RunConfig, change: Change, on_cpu: Make) -> None:
    pytest.importorskip("wandb")
    profile = change(config, "tracking", trackers=("wandb",), mode="offline")
    check = check_trackers(on_cpu(profile))
    assert check.status == "pass"
    assert "wandb: files in the run directory (" in check.detail


def test_an_unknown_tracker_is_refused(config: RunConfig, change: Change, on_cpu: Make) -> None:
    with pytest.raises(ConfigError, match="unknown tracker"):
        check_trackers(on_cpu(change(config, "tracking", trackers=("wandbb",))))
