"""FLOPs counted by formula, against torch's own counter over the real step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llmcausal.assembly import build
from llmcausal.config import LoraSection, MemorySection, RunConfig
from llmcausal.data.tokenization import EncodedMember, EncodedTriplet
from llmcausal.memory.flops import (
    ModelShape,
    measured_flops_per_second,
    model_shape,
    step_cost,
)
from llmcausal.memory.prediction import Workload
from llmcausal.memory.strategies import STRATEGIES
from llmcausal.memory.workload import Tokens, mean_tokens, tokens_of
from llmcausal.model.factory import LoadedModel
from llmcausal.model.lora import add_lora
from llmcausal.train.batch import collate, label_totals
from llmcausal.train.build import needs_of

SHAPE = ModelShape(
    linears={
        f"model.layers.{layer}.{name}": shape
        for layer in range(2)
        for name, shape in {"self_attn.q_proj": (8, 8), "mlp.up_proj": (8, 16)}.items()
    },
    layers=2,
    attention_width=8,
    width=8,
    vocabulary=10,
    element_bytes=2,
    last="up_proj",
)
TOKENS = Tokens(2, 6, 4, 100, 0, 200, 0, 120, 0, 7)


def cost(memory: MemorySection, **values: Any) -> Any:
    return step_cost(
        SHAPE, TOKENS, memory, LoraSection(rank=1, target_modules=("q_proj",)), **values
    )


@pytest.mark.parametrize(
    ("activations", "kept", "weight"),
    [
        ("keep", 0, 0.0),
        ("keep", 0, 0.5),
        ("recompute", 0, 0.0),
        ("recompute", 0, 0.5),
        ("recompute", 1, 0.0),
    ],
)
@pytest.mark.parametrize("members", ["tree", "separate"])
def test_the_count_is_that_of_torch(
    tiny_llama: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    activations: str,
    kept: int,
    weight: float,
    members: str,
) -> None:
    """Matrix products only: attention is small here, and torch counts it by kernel."""
    config = RunConfig.model_validate(
        {
            "model": {"quantization": "none", "device": "cpu", "precision": "fp32"},
            "memory": {
                "strategy": "manual",
                "activations": activations,
                "kept_layers": kept,
                "members": members,
            },
            "lora": {"rank": 4},
            "loss": {
                "projection_dim": 0,
                "contrast_gradient": "model",
                "lambda_adversarial": weight,
            },
        }
    )
    model = tiny_llama(hidden_size=256, intermediate_size=512, attn_implementation="eager")
    shape = model_shape(model, 4)
    loaded = LoadedModel(model, None, torch.device("cpu"), torch.float32)  # type: ignore[arg-type]
    step = build.build_step(config, loaded, add_lora(model, config.lora, 0))
    model.train()  # layers are recomputed in training alone
    batch = collate([triplet(0, 30, 20)], needs_of(config.loss), config.loss.pooling)
    tokens = without_pairs(tokens_of(batch))
    # torch counts no operations of oneDNN's products.
    monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: False)
    with FlopCounterMode(display=False) as counter:
        step(batch, label_totals([batch]), lambda loss: loss.backward())
    products = {
        str(op): count
        for op, count in counter.get_flop_counts()["Global"].items()
        if "bmm" not in str(op) and "attention" not in str(op)
    }
    counted = step_cost(shape, tokens, config.memory, config.lora)
    assert counted.total_flops == pytest.approx(sum(products.values()), rel=0.02)


def without_pairs(tokens: Tokens) -> Tokens:
    attack = None if tokens.attack is None else without_pairs(tokens.attack)
    return replace(tokens, tree_pairs=0, separate_pairs=0, attack=attack)


def triplet(first: int, shared: int, own: int) -> EncodedTriplet:
    def member(number: int, answers: bool) -> EncodedMember:
        tokens = tuple(range(shared)) + tuple(range(100 + 20 * number, 100 + 20 * number + own))
        return EncodedMember(tokens[:-8], tokens[-8:]) if answers else EncodedMember(tokens, ())

    return EncodedTriplet(str(first), member(0, True), member(1, False), member(2, True))


CONTRASTED = {"loss": {"contrast_gradient": "model"}}
"""With it the step computes all three members."""


def test_a_tree_counts_shared_tokens_and_their_pairs_once() -> None:
    config = RunConfig.model_validate(CONTRASTED)
    batch = collate([triplet(0, 30, 20)], needs_of(config.loss), "mean")
    tokens = tokens_of(batch)
    assert (tokens.nodes, tokens.separate) == (30 + 3 * 20, 3 * 50)
    assert tokens.separate_pairs == 3 * 50 * 51 / 2
    assert tokens.tree_pairs == 30 * 31 / 2 + 3 * (50 * 51 - 30 * 31) / 2
    assert (tokens.again, tokens.labels) == (100, 16)


def test_each_saving_has_its_price() -> None:
    base = cost(MemorySection(**STRATEGIES["keep"]))
    weights, lora, first, first_lora = 2 * (64 + 128), 2 * 16, 64, 8
    assert base.flops["forward"] == 2 * (weights + lora) * 100
    assert base.flops["backward"] == 2 * (weights - first + 2 * lora - first_lora) * 100
    assert base.flops["head"] == 4 * 10 * 8 * 7
    assert base.moved_bytes == 0
    recompute = cost(MemorySection(**STRATEGIES["recompute"]))
    assert recompute.total_flops == base.total_flops + base.flops["forward"]
    kept = cost(MemorySection(kept_layers=1, **STRATEGIES["recompute"]))
    assert kept.total_flops == base.total_flops + base.flops["forward"] / 2
    assert cost(MemorySection(kept_layers=9, **STRATEGIES["recompute"])) == base
    # Chunks recompute the MLP, whose projection has no adapter here.
    lean = cost(MemorySection(kept_layers=2, **STRATEGIES["lean"]))
    assert lean.flops["recompute"] == 2 * 2 * 8 * 16 * 100
    state = 100 * 8 * 2
    assert cost(MemorySection(**STRATEGIES["host_embeddings"])).moved_bytes == state
    assert cost(MemorySection(**STRATEGIES["offload"])).moved_bytes == state * (1 + 2 * 2)
    streamed = cost(MemorySection(**STRATEGIES["streamed_head"])).moved_bytes
    assert streamed == state * 5 + 10 * 8 * 2
    one_by_one = cost(MemorySection(**STRATEGIES["one_by_one"]))
    assert one_by_one.flops["forward"] == 2 * base.flops["forward"]
    assert one_by_one.flops["second pass"] == 2 * (weights + lora) * 120
    both = LoraSection(rank=1, target_modules=("q_proj", "up_proj"))
    fused = step_cost(SHAPE, TOKENS, MemorySection(**STRATEGIES["recompute"]), both)
    # The last product is not computed again, but x @ A.T.
    spared = 2 * 2 * (8 * 16 + 16) * 100
    assert fused.flops["recompute"] == fused.flops["forward"] - spared
    naive = cost(MemorySection(), naive=True)
    assert naive.flops["head"] == 4 * 10 * 8 * 200


def test_the_rate_is_that_of_a_product() -> None:
    rate = measured_flops_per_second(torch.device("cpu"), torch.float32, seconds=0.05)
    assert 1e8 < rate < 1e14


def test_synthetic_tokens_are_as_the_workload_says() -> None:
    config = RunConfig.model_validate(CONTRASTED)
    tokens = mean_tokens([Workload(100, 40, 10, 2).made_up()], config.loss)
    assert (tokens.triplets, tokens.nodes) == (2, 2 * (40 + 3 * 60))
    assert (tokens.separate, tokens.labels) == (600, 40)
