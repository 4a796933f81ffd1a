"""An evaluation's predicted memory against torch's allocator, and against full runs."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MistralConfig

from llmcausal.config import EvaluationSection, RunConfig
from llmcausal.errors import ModelError
from llmcausal.evaluation.decoding import TreeDecoder, blockwise_attention, rehearse
from llmcausal.evaluation.forward import Readable, read
from llmcausal.evaluation.generation import evaluation_mode
from llmcausal.memory.measure import measure
from llmcausal.memory.prediction import (
    AnswerLoad,
    Prediction,
    Workload,
    predict_answers,
    predict_reading,
)
from llmcausal.memory.simulation import run
from llmcausal.memory.simulation.trace import REAL_LAYERS
from llmcausal.memory.workload import answer_load
from llmcausal.model.factory import load_model
from llmcausal.train.build import build_adapters, build_step

LOAD = AnswerLoad(4, 150, 30, 12)
CPU = torch.device("cpu")


def with_memory(config: RunConfig, **switches: Any) -> RunConfig:
    return config.model_copy(update={"memory": config.memory.model_copy(update=switches)})


@pytest.mark.parametrize(
    ("quantization", "chunk", "load", "phase"),
    [
        ("nf4", 64, LOAD, "prompts"),
        ("none", 0, replace(LOAD, shared_tokens=0), "prompts"),
        # Many rows of short prompts: most of the cache is new tokens'.
        ("none", 0, AnswerLoad(24, 12, 11, 32), "tokens"),
    ],
)
def test_answers_take_what_was_predicted(
    tiny: Callable[..., RunConfig], quantization: str, chunk: int, load: AnswerLoad, phase: str
) -> None:
    config = with_memory(tiny("recompute", quantization=quantization), token_chunk=chunk)
    found = predict_answers(config, load, rehearse, device="cpu")
    loaded = load_model(config.model, config.memory)
    model = build_adapters(config, loaded)
    build_step(config, loaded, model, trained=False)
    base: Any = model.get_base_model()
    prompts = load.made_up()
    with evaluation_mode(model), blockwise_attention(base), torch.no_grad():
        decoder = TreeDecoder(base, load.prompt_tokens + load.new_tokens)

        def once() -> None:
            decoder(prompts, (), load.new_tokens)

        measured = measure(once, [model], CPU, Workload(1), steps=2)
    assert found.allocated_bytes == pytest.approx(measured.allocated_peak_bytes, rel=0.02)
    assert found.peak_phase == phase
    assert not found.components["optimizer"]
    assert not found.components["gradients"]


@pytest.mark.parametrize("members", ["tree", "separate"])
def test_reading_takes_what_was_predicted(tiny: Callable[..., RunConfig], members: str) -> None:
    config = with_memory(tiny("recompute", quantization="none"), members=members)
    workload = Workload(192, 64, 32, 2)
    found = predict_reading(config, workload, device="cpu")
    loaded = load_model(config.model, config.memory)
    model = build_adapters(config, loaded)
    step = build_step(config, loaded, model, trained=False)
    texts = [Readable(each, True) for each in workload.made_up()]

    def once() -> None:
        read(step, texts, pooling=config.loss.pooling, batch_size=2, projected=False)

    with evaluation_mode(model):
        measured = measure(once, [model, *step.objective.modules], CPU, workload, steps=2)
    assert found.allocated_bytes == pytest.approx(measured.allocated_peak_bytes, rel=0.02)


def test_repeated_layers_answer_as_if_they_had_been_run(
    same_without_repeating: Callable[..., None], tiny_config_of: Callable[[int], RunConfig]
) -> None:
    config = tiny_config_of(9)

    def predicted() -> Prediction:
        return predict_answers(config, LOAD, rehearse, device="cpu")

    same_without_repeating(predicted)


@pytest.mark.parametrize("read", [False, True])
def test_kept_layers_change_nothing_without_a_backward_pass(
    monkeypatch: pytest.MonkeyPatch, tiny_config_of: Callable[[int], RunConfig], read: bool
) -> None:
    plain = with_memory(tiny_config_of(16), activations="recompute")
    traced, layers = run._traced_passes, []

    def noted(*arguments: Any) -> Any:
        layers.append(arguments[-1])
        return traced(*arguments)

    monkeypatch.setattr(run, "_traced_passes", noted)

    def predicted(config: RunConfig) -> Prediction:
        if read:
            return predict_reading(config, Workload(64, 0, 16), device="cpu")
        return predict_answers(config, LOAD, rehearse, device="cpu")

    found, expected = predicted(with_memory(plain, kept_layers=8)), predicted(plain)
    assert layers == [REAL_LAYERS] * 2
    assert found.allocated_bytes == expected.allocated_bytes
    assert found.switches["kept_layers"] == 8


def test_every_new_token_reads_every_weight_in_4_bits(
    tiny_config_of: Callable[[int], RunConfig],
) -> None:
    found = predict_answers(tiny_config_of(2), LOAD, rehearse, device="cpu")
    assert found.weight_reads == 2 * 7 * LOAD.new_tokens
    one = predict_answers(tiny_config_of(2), replace(LOAD, new_tokens=1), rehearse, device="cpu")
    assert one.weight_reads == 2 * 7


def test_a_gpu_holds_the_keys_of_all_prompts_and_streams_a_head_on_the_host(
    tiny_config_of: Callable[[int], RunConfig],
) -> None:
    config = tiny_config_of(2)
    few, more = (
        predict_answers(config, AnswerLoad(rows, 600, 0, 8), rehearse, device="cuda")
        for rows in (2, 8)
    )
    # Keys and values of 2 layers, 2 heads of width 8, in 2 bytes: at least those of the cache.
    cache = 6 * 607 * 2 * 2 * 2 * 8 * 2
    assert more.allocated_bytes - few.allocated_bytes >= cache
    assert few.context_bytes
    assert few.host_bytes < 2**20  # token ids, paths and masks
    config = with_memory(config, embeddings="host", head="host", vocabulary_chunk=100)
    hosted = predict_answers(config, AnswerLoad(2, 600, 0, 8), rehearse, device="cuda")
    weight = 258 * 32 * 2
    crossing = sum(n * kernel.bytes for kernel, n in hosted.kernels if kernel.crosses)
    assert crossing >= 8 * weight  # once for every new token
    assert hosted.host_bytes >= weight
    assert hosted.components["base_model"] < few.components["base_model"]


def test_sdpa_is_decoded_in_blocks(tiny: Callable[..., RunConfig]) -> None:
    """A mask over the tree would be the largest tensor of a long prompt's pass."""
    load = AnswerLoad(2, 600, 0, 4)
    found, wanted = (
        predict_answers(tiny("recompute", attention=name), load, rehearse, device="cpu")
        for name in ("sdpa", "tree")
    )
    assert found.allocated_bytes == wanted.allocated_bytes


def test_what_transformers_generates_is_not_predicted(
    tiny: Callable[..., RunConfig], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"not SDPA.*Set model\.attention to 'tree'"):
        predict_answers(tiny("recompute", attention="eager"), LOAD, rehearse, device="cpu")
    shape = MistralConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=100,
    )
    shape.save_pretrained(tmp_path / "window")
    config = RunConfig.model_validate({"model": {"name": str(tmp_path / "window")}})
    found = predict_answers(config, AnswerLoad(2, 88, 0, 12), rehearse, device="cpu")
    assert found.peak_phase
    with pytest.raises(ModelError, match=r"101 tokens exceed its sliding window of 100.*--seq-len"):
        predict_answers(config, AnswerLoad(2, 89, 0, 12), rehearse, device="cpu")


def nodes_of(prompts: Iterable[tuple[int, ...]]) -> int:
    """Counts the nodes of the prompts' prefix tree: their distinct beginnings."""
    return len({prompt[: end + 1] for prompt in prompts for end in range(len(prompt))})


def test_the_load_is_at_least_as_large_as_every_batch() -> None:
    draw = random.Random(0)
    for size in (1, 2, 3, 5):
        prompts = [tuple(draw.randrange(2) for _ in range(draw.randrange(1, 9))) for _ in range(12)]
        section = EvaluationSection(batch_size=size, max_new_tokens=7)
        load = answer_load(section, [*prompts, prompts[0]])
        order = sorted(set(prompts))
        batches = [order[at : at + size] for at in range(0, len(order), size)]
        assert load.prompts == max(map(len, batches))
        assert load.prompt_tokens == max(map(len, prompts))
        assert load.new_tokens == 7
        largest = max(map(nodes_of, batches))
        assert largest <= nodes_of(load.made_up()) < largest + size
