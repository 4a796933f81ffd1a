"""Planning a run: before its model is loaded, recorded in its settings, refused where none fits."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from llmcausal.assembly.prepare import prepare_data
from llmcausal.config import RunConfig
from llmcausal.errors import DoesNotFitError
from llmcausal.memory import prediction, runs
from llmcausal.memory.budget import Budget
from llmcausal.memory.prediction import GpuTraits, Prediction, Workload
from llmcausal.memory.runs import Planned, plan_run
from llmcausal.memory.workload import data_workload, first_epoch, mean_tokens, tokens_of
from llmcausal.train.batch import collate
from llmcausal.train.build import needs_of
from tests.predictions import made_prediction

MIB = 2**20


def predict(config: RunConfig, workload: Workload, **options: Any) -> Prediction:
    """500 MiB with kept activations, 300 recomputed, 200 with host embeddings; rank counts."""
    needed = {"keep": 500, "recompute": 300, "offload": 150}[config.memory.activations] * MIB
    if config.memory.embeddings == "host":
        needed -= 100 * MIB
    needed += config.lora.rank * MIB
    return made_prediction(workload, needed, device=options["device"], strategy=options["strategy"])


def planned_with(
    monkeypatch: pytest.MonkeyPatch, predict: Callable[..., Prediction], config: RunConfig
) -> Planned:
    monkeypatch.setattr(prediction, "predict", predict)
    return plan_run(config, prepare_data(config).train, lambda _: nullcontext())


def with_memory(config: RunConfig, **memory: Any) -> RunConfig:
    section = type(config.memory).model_validate({"raise_batch_size": False, **memory})
    return config.model_copy(update={"memory": section})


def test_on_a_cpu_without_a_budget_nothing_is_predicted(
    tiny_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config()

    def never(*arguments: Any, **options: Any) -> Prediction:
        raise AssertionError("predicted")

    planned = planned_with(monkeypatch, never, config)
    assert (planned.config, planned.notes) == (config, [])


def test_the_chosen_switches_are_written_as_if_by_hand(
    tiny_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_memory(tiny_config(), budget_gb=0.35)
    planned = planned_with(monkeypatch, predict, config)
    memory = planned.config.memory
    assert (memory.strategy, memory.activations, memory.embeddings) == (
        "manual",
        "recompute",
        "device",
    )
    (note,) = planned.notes
    assert "strategy recompute" in note
    assert "memory.budget_gb" in note


def test_what_does_not_fit_is_refused_with_what_helps_unless_forced(
    tiny_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_memory(tiny_config(lora={"rank": 16}), budget_gb=0.06)
    with pytest.raises(DoesNotFitError, match=r"memory\.force=true") as refused:
        planned_with(monkeypatch, predict, config)
    assert refused.value.exit_code == 3
    assert "--set lora.rank=8  predicted 0.06 GiB, fits" in str(refused.value)
    forced = with_memory(config, budget_gb=0.06, force=True)
    planned = planned_with(monkeypatch, predict, forced)
    assert planned.config.memory.members == "one_by_one"
    assert "memory.force" in planned.notes[0]


def test_a_run_keeps_what_was_predicted_for_it(
    tiny_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmcausal.assembly import training

    config = with_memory(tiny_config(train={"max_steps": 2}), budget_gb=0.35)
    monkeypatch.setattr(prediction, "predict", predict)
    run_dir = training.train(training.TrainRequest(config, plain=True)).run_dir
    kept = json.loads((run_dir / "memory_plan.json").read_text())
    assert (kept["strategy"], kept["fits"], kept["forced"]) == ("recompute", True, False)
    assert kept["switches"]["activations"] == "recompute"
    assert kept["budget"] == {"bytes": round(0.35 * 2**30), "source": "memory.budget_gb"}
    assert kept["predicted"]["needed_bytes"] == 304 * MIB
    assert sum(kept["predicted"]["components"].values()) == 304 * MIB
    assert [row["name"] for row in kept["tried"]] == ["keep", "recompute", "offload"]
    assert Workload(**kept["workload"]) == data_workload(config, prepare_data(config).train)
    before = (run_dir / "memory_plan.json").read_text()
    training.resume(training.ResumeRequest(run_dir, plain=True))
    assert (run_dir / "memory_plan.json").read_text() == before


def test_a_refused_run_leaves_nothing_behind(
    tiny_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmcausal.assembly import training

    config = with_memory(tiny_config(), budget_gb=0.01)
    monkeypatch.setattr(prediction, "predict", predict)
    monkeypatch.setattr(training, "build_run", _never)
    with pytest.raises(DoesNotFitError):
        training.train(training.TrainRequest(config, plain=True))
    assert not config.run_dir.exists()


def _never(*arguments: Any) -> None:
    raise AssertionError("the model was loaded")


def test_a_workload_bounds_the_trees_that_the_data_make(
    tiny_config: Callable[..., RunConfig],
) -> None:
    config = tiny_config()
    data = prepare_data(config)
    needs = needs_of(config.loss)
    workload = data_workload(config, data.train)
    made = mean_tokens([workload.made_up()], config.loss)
    size = config.train.batch_size
    for start in range(0, len(data.train) - size + 1, size):
        real = tokens_of(collate(data.train[start : start + size], needs, "mean"))
        assert real.nodes <= made.nodes
        assert real.separate <= made.separate
    assert workload.member_tokens == max(item.longest for item in data.train)
    assert 0 < workload.shared_tokens < workload.member_tokens
    packed = first_epoch(config.train, data.train)
    assert len(packed) == -(-len(data.train) // size)
    assert mean_tokens(packed, config.loss).nodes <= made.nodes


def test_a_plan_tells_what_its_gpu_lacks(
    tiny_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_memory(tiny_config())
    traits = GpuTraits(flash=False, pages=False)
    monkeypatch.setattr(runs, "traits_here", lambda: traits)
    monkeypatch.setattr(runs, "choose_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(runs, "find_budget", lambda *_: Budget(2**30, "a test"))
    planned = planned_with(monkeypatch, predict, config)
    assert planned.notes[1:] == traits.notes(config.train.optimizer)
    assert "no flash attention" in planned.notes[1]


@pytest.mark.parametrize("wsl", [True, False])
def test_a_host_without_room_is_told_how_to_get_it(
    tiny_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch, wsl: bool
) -> None:
    config = tiny_config()
    monkeypatch.setattr(runs, "choose_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(runs, "find_budget", lambda *_: Budget(2**30, "a test"))
    monkeypatch.setattr(runs, "free_host_bytes", lambda: 0)
    monkeypatch.setattr(runs, "in_wsl", lambda: wsl)

    def needs_host(config: RunConfig, workload: Workload, **_: Any) -> Prediction:
        return made_prediction(workload, MIB, host_bytes=MIB)

    help = "under \\[wsl2\\]" if wsl else "close other programs"
    with pytest.raises(DoesNotFitError, match=help):
        planned_with(monkeypatch, needs_host, config)
