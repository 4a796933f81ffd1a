"""Predictions against real steps, full runs, and what the switches are for."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from llmcausal.config import LossSection, RunConfig
from llmcausal.errors import ConfigError, ModelError
from llmcausal.memory import prediction
from llmcausal.memory.architecture import NF4
from llmcausal.memory.prediction import NAIVE, GpuTraits, Prediction, Workload, predict
from llmcausal.memory.simulation import run
from llmcausal.memory.strategies import STRATEGIES
from tests.tiny import save_in_nf4

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
WORKLOAD = Workload(192, 64, 32)


def llama(strategy: str, **memory: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "model": {"name": LLAMA, "precision": "bf16"},
            "memory": {**STRATEGIES.get(strategy, {}), **memory},
        }
    )


@cache
def on_cuda(strategy: str, load: Workload, **memory: Any) -> Prediction:
    """Predicts Llama's step on a GPU of the usual kind; takes seconds."""
    return predict(llama(strategy, **memory), load, device="cuda", strategy=strategy)


@pytest.mark.parametrize(
    ("strategy", "quantization"),
    [
        ("recompute", "nf4"),
        ("one_by_one", "none"),
        pytest.param("keep", "none", marks=pytest.mark.slow),
        pytest.param("streamed_head", "nf4", marks=pytest.mark.slow),
    ],
)
def test_real_steps_take_what_was_predicted(
    tiny: Callable[..., RunConfig], strategy: str, quantization: str
) -> None:
    from llmcausal.memory.measure import measure_triplets

    config = tiny(strategy, quantization=quantization)
    state = torch.get_rng_state()
    found = predict(config, WORKLOAD, device="cpu", strategy=strategy)
    assert type(torch.get_rng_state()) is torch.Tensor
    assert torch.equal(torch.get_rng_state(), state)
    # The profiler's events, in the same process: predicting must leave nothing fake behind.
    measured = measure_triplets(config, WORKLOAD.made_up(), steps=2).allocated_peak_bytes
    assert found.allocated_bytes == pytest.approx(measured, rel=0.02)
    assert found.context_bytes == found.host_bytes == 0
    assert not found.extrapolated


@pytest.mark.parametrize(
    ("strategy", "kept"),
    [
        ("recompute", 1),
        ("recompute", 3),
        ("lean", 2),
        pytest.param("recompute", 0, marks=pytest.mark.slow),
        pytest.param("recompute", 2, marks=pytest.mark.slow),
        pytest.param("one_by_one", 1, marks=pytest.mark.slow),
        pytest.param("streamed_head", 1, marks=pytest.mark.slow),
        pytest.param("lean", 5, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("quantization", ["none", pytest.param("nf4", marks=pytest.mark.slow)])
def test_kept_layers_take_what_was_predicted(
    tiny: Callable[..., RunConfig], strategy: str, kept: int, quantization: str
) -> None:
    from llmcausal.memory.measure import measure_triplets

    load = Workload(384, 128, 32)  # so many tokens that layers outweigh the rest
    config = with_kept(tiny(strategy, quantization=quantization), kept)
    found = predict(config, load, device="cpu")
    measured = measure_triplets(config, load.made_up(), steps=2).allocated_peak_bytes
    assert found.allocated_bytes == pytest.approx(measured, rel=0.02)


def with_kept(config: RunConfig, kept: int, **switches: Any) -> RunConfig:
    memory = config.memory.model_copy(update={"kept_layers": kept, **switches})
    return config.model_copy(update={"memory": memory})


def test_each_kept_layer_takes_memory_and_saves_its_second_forward_pass(
    tiny: Callable[..., RunConfig],
) -> None:
    """Up to keeping everything, which is what the switch `keep` does."""
    load = Workload(384, 128, 32)
    config = tiny("recompute", quantization="none")
    by_kept = {kept: predict(with_kept(config, kept), load, device="cpu") for kept in range(5)}
    needs = [each.allocated_bytes for each in by_kept.values()]
    assert needs == sorted(needs)
    assert needs[3] == needs[4] > needs[2] > needs[1]
    flops = [sum(one.flops * n for one, n in each.kernels) for each in by_kept.values()]
    assert flops[0] - flops[1] == flops[1] - flops[2] == flops[2] - flops[3] > 0
    whole = predict(with_kept(config, 0, activations="keep"), load, device="cpu")
    assert whole.allocated_bytes == pytest.approx(needs[3], rel=0.001)
    assert sum(one.flops * n for one, n in whole.kernels) == flops[3]


@pytest.mark.parametrize(
    ("double", "skipped"), [(True, None), (False, ["lm_head", "model.layers.1.mlp"])]
)
def test_a_checkpoint_in_4_bits_takes_what_was_predicted(
    tiny: Callable[..., RunConfig], tmp_path: Path, double: bool, skipped: list[str] | None
) -> None:
    from llmcausal.memory.measure import measure_triplets

    plain = tiny("recompute", double_quantization=double)
    stored = save_in_nf4(tmp_path / "model", tmp_path / "nf4", double=double, skipped=skipped)
    config = tiny("recompute", name=str(stored), double_quantization=double)
    found = predict(config, WORKLOAD, device="cpu")
    measured = measure_triplets(config, WORKLOAD.made_up(), steps=2).allocated_peak_bytes
    assert found.allocated_bytes == pytest.approx(measured, rel=0.02)
    if skipped:  # three matrices of 256 x 128 in fp32 instead of 4 bits and scales
        quantized_here = predict(plain, WORKLOAD, device="cpu")
        numbers = 3 * 256 * 128
        saved = 3.5 * numbers - numbers / 64 * (1 if double else 4)
        more = found.components["base_model"] - quantized_here.components["base_model"]
        assert more == pytest.approx(saved, rel=0.02)


def test_a_head_in_4_bits_is_refused_without_its_weights(
    tiny: Callable[..., RunConfig], tmp_path: Path
) -> None:
    config = tiny("recompute")
    file = tmp_path / "model" / "config.json"
    nf4 = {**NF4, "llm_int8_skip_modules": ["embed_tokens"]}
    shape = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**shape, "quantization_config": nf4}), encoding="utf-8")
    with pytest.raises(ModelError, match=r"output head is stored in 4 bits.*model\.name"):
        predict(config, WORKLOAD, device="cpu")


def test_double_quantization_of_a_checkpoint_is_counted(
    tiny: Callable[..., RunConfig], tmp_path: Path
) -> None:
    needs = []
    for double in (True, False):
        folder = save_in_nf4(tmp_path / "model", tmp_path / f"nf4-{double}", double=double)
        config = tiny("recompute", name=str(folder), double_quantization=double)
        needs.append(predict(config, WORKLOAD, device="cpu").components["base_model"])
    # 64 weights share a scale: a byte and a 256th of four bytes, instead of four bytes. But each
    # matrix has a table of 256 codes and an offset, which outweigh that in so small a model.
    matrices = 3 * [*[128 * 128] * 2, *[64 * 128] * 2, *[128 * 256] * 3]
    saved = sum(3 * n // 64 - 4 * -(-n // 64 // 256) for n in matrices)
    assert needs[1] - needs[0] == saved - len(matrices) * (256 * 4 + 4)
    with pytest.raises(ConfigError, match=r"set model\.double_quantization to true"):
        predict(
            tiny(name=str(tmp_path / "nf4-True"), double_quantization=False),
            WORKLOAD,
            device="cpu",
        )


@pytest.mark.parametrize(
    ("weight", "members", "activations"),
    [
        ("lambda_invariance", "tree", "keep"),
        ("lambda_state", "one_by_one", "recompute"),
        ("lambda_adversarial", "tree", "keep"),
        ("lambda_adversarial", "one_by_one", "recompute"),
        pytest.param("lambda_state", "tree", "keep", marks=pytest.mark.slow),
        pytest.param("lambda_state", "tree", "recompute", marks=pytest.mark.slow),
    ],
)
def test_terms_that_compare_answers_and_the_adversary_take_what_was_predicted(
    tiny: Callable[..., RunConfig], weight: str, members: str, activations: str
) -> None:
    """On answers so long that the states at them are a share of the peak."""
    from llmcausal.memory.measure import measure_triplets

    load = Workload(192, 16, 160)
    config = tiny("recompute", quantization="none")
    switches = {"members": members, "activations": activations, "label_chunk": 400}
    config = config.model_copy(
        update={
            "loss": LossSection(**{weight: 1.0}),
            "memory": config.memory.model_copy(update=switches),
        }
    )
    predicted = predict(config, load, device="cpu").allocated_bytes
    measured = measure_triplets(config, load.made_up(), steps=2).allocated_peak_bytes
    assert predicted == pytest.approx(measured, rel=0.002)
    without = config.model_copy(update={"loss": LossSection()})
    plain = predict(without, load, device="cpu").allocated_bytes
    # The adversary's pass comes after the step's own, whose shift of the embeddings is the cost.
    assert plain < (1.0 if weight == "lambda_adversarial" else 0.98) * predicted


@pytest.mark.parametrize(
    "strategy",
    [
        "lean",
        NAIVE,
        pytest.param("recompute", marks=pytest.mark.slow),
        pytest.param("one_by_one", marks=pytest.mark.slow),
    ],
)
def test_repeated_layers_are_as_if_they_had_been_run(
    same_without_repeating: Callable[..., None],
    tiny_config_of: Callable[[int], RunConfig],
    strategy: str,
) -> None:
    config = tiny_config_of(9)
    config = config.model_copy(
        update={"memory": config.memory.model_copy(update=STRATEGIES.get(strategy, {}))}
    )

    def predicted() -> Prediction:
        return predict(config, WORKLOAD, device="cpu", strategy=strategy)

    same_without_repeating(predicted)


@pytest.mark.parametrize(
    ("strategy", "layers", "kept"),
    [
        ("recompute", 11, 8),
        pytest.param("recompute", 17, 8, marks=pytest.mark.slow),
        pytest.param("recompute", 12, 3, marks=pytest.mark.slow),
        pytest.param("offload", 17, 8, marks=pytest.mark.slow),
        pytest.param("one_by_one", 17, 8, marks=pytest.mark.slow),
        pytest.param("lean", 17, 8, marks=pytest.mark.slow),
    ],
)
def test_repeated_layers_of_both_kinds_are_as_if_they_had_been_run(
    same_without_repeating: Callable[..., None],
    tiny_config_of: Callable[[int], RunConfig],
    strategy: str,
    layers: int,
    kept: int,
) -> None:
    config = with_kept(tiny_config_of(layers), kept, **STRATEGIES[strategy])

    def predicted() -> Prediction:
        return predict(config, WORKLOAD, device="cpu", strategy=strategy)

    same_without_repeating(predicted)


def run_every_layer(config: RunConfig, workload: Workload, strategy: str) -> Prediction:
    with patch.object(run, "REAL_LAYERS", 99):
        return run.run(config, workload, GpuTraits(), strategy)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["recompute", "offload"])
def test_a_gpu_reserves_for_repeated_layers_of_both_kinds_what_it_does_for_all(
    tiny_config_of: Callable[[int], RunConfig], strategy: str
) -> None:
    config = with_kept(tiny_config_of(18), 9, **STRATEGIES[strategy])
    load = Workload(4096, 64, 32)  # blocks of all the allocator's sizes
    repeated = predict(config, load, device="cuda", strategy=strategy)
    # Only the child process may simulate CUDA.
    real = prediction._child().submit(run_every_layer, config, load, strategy).result()
    assert repeated.extrapolated
    assert not real.extrapolated
    assert repeated.host_bytes > 0 or strategy == "recompute"
    for name in (
        "allocated_bytes", "reserved_bytes", "reserved_expandable_bytes", "host_bytes"
    ):  # fmt: skip
        assert getattr(repeated, name) == getattr(real, name)


def test_more_kept_layers_are_predicted_from_the_same_trace(
    monkeypatch: pytest.MonkeyPatch, tiny_config_of: Callable[[int], RunConfig]
) -> None:
    config = tiny_config_of(20)
    few = predict(with_kept(config, 7), WORKLOAD, device="cpu")
    monkeypatch.setattr(run, "_traced", None)
    more = predict(with_kept(config, 9), WORKLOAD, device="cpu")
    assert more.allocated_bytes > few.allocated_bytes
    assert more.launches < few.launches


@pytest.mark.parametrize(
    ("strategy", "shards"),
    [
        ("lean", 3),
        pytest.param("keep", 2, marks=pytest.mark.slow),
        pytest.param("recompute", 3, marks=pytest.mark.slow),
    ],
)
def test_repeated_layers_are_shared_as_if_they_had_been_run(
    monkeypatch: Any, tiny_config_of: Callable[[int], RunConfig], strategy: str, shards: int
) -> None:
    config = tiny_config_of(9)
    switches = {**STRATEGIES[strategy], "shards": shards}
    config = config.model_copy(update={"memory": config.memory.model_copy(update=switches)})
    repeated = predict(config, WORKLOAD, device="cpu", strategy=strategy)
    monkeypatch.setattr(run, "REAL_LAYERS", 99)
    real = predict(config, WORKLOAD, device="cpu", strategy=strategy)
    assert repeated.extrapolated
    assert not real.extrapolated
    for name in ("components", "peak_phase", "peak_tensors"):
        assert getattr(repeated, name) == getattr(real, name)


def test_a_card_holds_its_share_of_the_layers_and_two_whole_ones() -> None:
    """Against the arithmetic: every packed weight and scale of a layer, and its two norms."""
    load = Workload(64, 0, 16)
    linear = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336
    layer = linear // 2 + linear // 64 + 2 * 4096 * 2
    by_shards = {shards: on_cuda("recompute", load, shards=shards) for shards in (1, 2, 4)}
    whole = by_shards[1].components["base_model"]
    for shards, found in by_shards.items():
        assert found.switches["shards"] == shards
        if shards > 1:
            expected = whole - 32 * layer + 32 * layer / shards + 2 * layer
            assert found.components["base_model"] == pytest.approx(expected, rel=1e-4)
            assert found.peak_phase == "backward"


@pytest.mark.parametrize("strategy", ["lean", "one_by_one"])
def test_chunks_that_are_not_run_change_nothing(
    monkeypatch: Any, tiny_config_of: Callable[[int], RunConfig], strategy: str
) -> None:
    config = tiny_config_of(2)
    switches = {**STRATEGIES[strategy], "token_chunk": 64}
    config = config.model_copy(update={"memory": config.memory.model_copy(update=switches)})

    def predicted() -> Prediction:
        return predict(config, WORKLOAD, device="cpu", strategy=strategy)

    few = predicted()
    monkeypatch.setattr(run, "CHUNKS_RUN", 99)
    every = predicted()
    for name in ("components", "peak_phase", "peak_tensors"):
        assert getattr(few, name) == getattr(every, name)
    assert few.launches == every.launches
    flops = [sum(kernel.flops * n for kernel, n in each.kernels) for each in (few, every)]
    assert flops[0] == pytest.approx(flops[1], rel=0.01)


def test_llama_in_nf4_holds_what_its_weights_take() -> None:
    """Against the arithmetic: 4.127 bits for each weight of the layers, 16 for head, embeddings."""
    found = on_cuda("recompute", Workload(64, 0, 16), shards=1)
    linear = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    expected = linear * 4.127 / 8 + 2 * 128256 * 4096 * 2
    assert found.extrapolated
    assert found.components["base_model"] == pytest.approx(expected, rel=1e-3)
    rank16 = 32 * 16 * (2 * 8192 + 2 * 5120 + 3 * 18432) * 4
    assert found.components["adapters"] == pytest.approx(rank16, rel=1e-3)  # and no head
    assert found.reserved_bytes >= found.allocated_bytes
    assert found.needed_bytes > found.reserved_bytes


def test_switches_take_from_the_device_what_they_are_for() -> None:
    load = Workload(256, 0, 32)
    by_strategy = {
        name: predict(llama(name), load, device="cuda", strategy=name)
        for name in ("recompute", "host_embeddings", "streamed_head", NAIVE)
    }
    whole = 128256 * 4096 * 2
    base = {name: each.components["base_model"] for name, each in by_strategy.items()}
    assert base["recompute"] - base["host_embeddings"] == whole
    assert base["host_embeddings"] - base["streamed_head"] == whole
    assert base[NAIVE] - base["recompute"] == pytest.approx(2 * whole, rel=1e-3)  # in fp32
    moved = by_strategy["streamed_head"].host_bytes - by_strategy["recompute"].host_bytes
    assert moved >= 2 * whole
    peaks = [by_strategy[name].reserved_bytes for name in (*list(by_strategy)[:3],)]
    assert sorted(peaks, reverse=True) == peaks
    assert by_strategy[NAIVE].reserved_bytes > peaks[0]


def test_simulating_cuda_does_not_touch_this_process() -> None:
    on_cuda("recompute", Workload(64, 0, 16), shards=1)
    assert not hasattr(torch, "sim")
    assert torch.accelerator.current_accelerator() in (None, torch.device("cuda"))


def test_what_is_wrong_with_the_settings_is_told_by_its_own_error() -> None:
    config = llama("lean").model_copy(update={"loss": LossSection(layer=99)})
    with pytest.raises(ConfigError, match=r"loss\.layer = 99"):
        predict(config, Workload(32, 0, 8), device="cuda")


def test_without_flash_attention_key_heads_count_once_a_query_head(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load = Workload(512, 0, 32)
    flash = predict(llama("keep"), load, device="cuda")
    monkeypatch.setattr(prediction, "traits_here", lambda: GpuTraits(flash=False))
    plain = predict(llama("keep"), load, device="cuda")
    # Keys and values of 32 heads in place of 8, of two members, in every layer.
    more = 32 * 2 * 512 * 2 * (32 - 8) * 128 * 2
    grown = plain.components["activations"] - flash.components["activations"]
    assert grown == pytest.approx(more, rel=0.01)


def test_states_that_are_not_paged_count_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Workload(64, 0, 16)
    paged = on_cuda("recompute", load, shards=1)
    monkeypatch.setattr(prediction, "traits_here", lambda: GpuTraits(pages=False))
    kept = predict(llama("recompute"), load, device="cuda")
    # bitsandbytes pages from 1e5 numbers on: one matrix of each MLP projection, two bytes a number.
    large = 32 * 3 * 16 * 14336
    moved = paged.host_bytes - kept.host_bytes
    assert moved == kept.components["optimizer"] - paged.components["optimizer"]
    assert moved == 2 * large
