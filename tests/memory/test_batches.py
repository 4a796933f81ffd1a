"""The planner raises the micro-batch at an equal optimizer step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
from transformers import LlamaConfig

from llmcausal.assembly.prepare import prepare_data
from llmcausal.config import RunConfig
from llmcausal.memory import prediction, spare
from llmcausal.memory.prediction import Kernel, Prediction, Workload, predict
from llmcausal.memory.runs import Planned, plan_run
from llmcausal.memory.spare import larger_sizes, with_batch_size
from tests.predictions import made_prediction

MIB = 2**20
PER_TRIPLET = 100 * MIB


def by_triplets(config: RunConfig, workload: Workload, **options: Any) -> Prediction:
    """100 MiB a triplet; 1000 kernels and 10 reads of 4-bit weights whatever the triplets."""
    kernels = ((Kernel("add", 0, 1), 990), (Kernel("gemm_4bit", 1, 1), 10))
    return made_prediction(workload, workload.triplets * PER_TRIPLET, kernels=kernels)


@pytest.fixture
def planned(
    tiny_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Planned]:
    """Plans a run with a budget in MiB."""
    monkeypatch.setattr(prediction, "predict", by_triplets)

    def make(budget: float, memory: dict[str, Any] | None = None, **sections: Any) -> Planned:
        train = {"batch_size": 1, "accumulation_steps": 16, **sections.pop("train", {})}
        config = tiny_config(
            model={"unpack_on_cpu": False, **sections.pop("model", {})},
            train=train,
            lora={"dropout": 0.0, **sections.pop("lora", {})},
            memory={"budget_gb": budget * MIB / 2**30, **(memory or {})},
            **sections,
        )
        return plan_run(config, prepare_data(config).train, lambda _: nullcontext())

    return make


@pytest.mark.parametrize(("budget", "size"), [(150, 1), (220, 2), (420, 2), (430, 4), (2000, 8)])
def test_the_largest_that_fits_with_some_room_is_taken(
    planned: Callable[..., Planned], budget: float, size: int
) -> None:
    found = planned(budget)
    train = found.config.train
    assert (train.batch_size, train.batch_size * train.accumulation_steps) == (size, 16)
    assert found.record is not None
    assert found.record["workload"]["triplets"] == size
    assert found.record["predicted"]["needed_bytes"] == size * PER_TRIPLET
    gain = [note for note in found.notes if "micro-batches of" in note]
    assert len(gain) == (size > 1)
    if size == 8:
        assert "8 triplets instead of 1, the same 16 in an optimizer step" in gain[0]
        assert "2,000 kernels instead of 16,000" in gain[0]
        assert "4-bit weights read 20 times instead of 160 " in gain[0]


def test_a_raised_micro_batch_names_its_own_kept_layers(
    planned: Callable[..., Planned], monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_kept(config: RunConfig, workload: Workload, **options: Any) -> Prediction:
        """A kept layer takes 40 MiB a triplet; reads of weights take nearly all time."""
        kept, triplets = config.memory.kept_layers, workload.triplets
        kernels = ((Kernel("mm", 10**6 * triplets, 1), 9 - kept), (Kernel("read", 0, 10**9), 1))
        needed = triplets * (PER_TRIPLET + 40 * MIB * kept)
        return made_prediction(workload, needed, device="cpu", kernels=kernels)

    monkeypatch.setattr(prediction, "predict", by_kept)
    found = planned(310, {"activations": "recompute"})
    assert found.config.train.batch_size == 2
    assert found.record is not None
    kept = found.record["switches"]["kept_layers"]
    assert kept == found.config.memory.kept_layers == 1
    reason = found.record["reason"]
    assert (
        f"it keeps the activations of the last {kept} of 2 layers; with 2 triplets in a micro"
        in (reason)
    )
    assert "predicted 0.27 GiB" in reason
    assert "last 2 of 2" not in " ".join([reason, *found.notes])
    assert reason in found.notes[0]
    assert [row["name"] for row in found.record["tried"]][-1].endswith(
        "1 of 2 layers kept, 2 triplets"
    )


@pytest.mark.parametrize(
    "sections",
    [
        {"memory": {"raise_batch_size": False}},
        {"memory": {"members": "separate"}},
        {"lora": {"dropout": 0.1}},
        {"model": {"unpack_on_cpu": True}},
        {"loss": {"contrastive": "info_nce", "contrast_gradient": "model"}},
    ],
)
def test_what_would_change_the_step_keeps_its_micro_batch(
    planned: Callable[..., Planned], sections: dict[str, Any]
) -> None:
    assert planned(2000, **sections).config.train.batch_size == 1


@pytest.mark.parametrize(("dropout", "size"), [(0.0, 8), (0.1, 1)])
def test_a_model_with_dropout_keeps_its_micro_batch(
    planned: Callable[..., Planned], monkeypatch: pytest.MonkeyPatch, dropout: float, size: int
) -> None:
    text = LlamaConfig(attention_dropout=dropout)
    monkeypatch.setattr(spare, "load_architecture", lambda section: text)
    assert planned(2000).config.train.batch_size == size


def test_every_process_keeps_as_many_micro_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    def sizes(size: int, steps: int) -> list[int]:
        train = {"batch_size": size, "accumulation_steps": steps}
        return larger_sizes(RunConfig.model_validate({"train": train}))

    assert sizes(1, 16) == [2, 4, 8]
    assert sizes(2, 6) == [4, 6]
    assert sizes(1, 7) == [7]
    monkeypatch.setattr(spare, "process_count", lambda: 2)
    assert sizes(1, 16) == [2, 4, 8]
    assert sizes(1, 6) == [3]
    assert sizes(3, 2) == []


def test_a_larger_micro_batch_takes_what_was_predicted(
    tiny_config: Callable[..., RunConfig],
) -> None:
    from llmcausal.memory.measure import measure_triplets
    from llmcausal.memory.workload import data_workload, largest_rows

    config = tiny_config(model={"unpack_on_cpu": False})
    data = prepare_data(config).train
    peaks = {}
    for size in (1, 4):
        larger = with_batch_size(config, size)
        rows = largest_rows(larger, data)
        load = data_workload(larger, rows)
        assert load.triplets == size
        measured = measure_triplets(larger, rows, steps=2).allocated_peak_bytes
        peaks[size] = predict(larger, load, device="cpu").allocated_bytes
        assert 0.98 * measured <= peaks[size]
    assert peaks[4] > peaks[1]
