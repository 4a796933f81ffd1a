"""Loaded optimizer states equal the saved ones, also in paged buffers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from llmcausal.config import TrainSection
from llmcausal.train.optimizer import build_optimizer, load_optimizer, optimizer_step


def trained(kind: str, steps: int) -> Any:
    generator = torch.Generator().manual_seed(3)
    weight = torch.nn.Parameter(torch.randn(64, 64, generator=generator))
    optimizer = build_optimizer(TrainSection(optimizer=kind), {"adapter": [weight]})  # type: ignore[arg-type]
    for _ in range(steps):
        weight.grad = torch.randn(64, 64, generator=generator)
        optimizer_step(optimizer)
    return weight, optimizer


@pytest.mark.parametrize("kind", ["paged_adamw_8bit", "adamw_8bit", "adamw"])
def test_loaded_states_take_the_same_next_step(kind: str) -> None:
    weight, optimizer = trained(kind, 3)
    fresh, other = trained(kind, 0)
    load_optimizer(other, copy.deepcopy(optimizer.state_dict()))  # torch would share tensors
    with torch.no_grad():
        fresh.copy_(weight)
    for parameter, of in ((weight, optimizer), (fresh, other)):
        parameter.grad = torch.full((64, 64), 0.5)
        optimizer_step(of)
    assert torch.equal(weight, fresh)
    assert not torch.equal(weight, trained(kind, 3)[0])


def test_paged_states_are_loaded_into_paged_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    _, optimizer = trained("paged_adamw_8bit", 1)
    weight, other = trained("paged_adamw_8bit", 0)
    given = []
    original = other.get_state_buffer

    def recorded(parameter: Any, dtype: Any) -> Any:
        given.append(original(parameter, dtype=dtype))
        return given[-1]

    monkeypatch.setattr(other, "get_state_buffer", recorded)
    load_optimizer(other, optimizer.state_dict())
    state = other.state[weight]
    assert {id(state["state1"]), id(state["state2"])} == {id(buffer) for buffer in given}
    assert state["state1"].dtype == torch.uint8
    assert state["state1"].any()


@pytest.mark.parametrize("kind", ["paged_adamw_8bit", "adamw"])
def test_the_projection_head_may_learn_at_a_rate_of_its_own(kind: Any) -> None:
    section = TrainSection(optimizer=kind, learning_rate=1e-3, projection_learning_rate=1e-2)
    weights = {name: [torch.nn.Parameter(torch.zeros(4))] for name in ("adapter", "projection")}
    optimizer = build_optimizer(section, weights)
    for [weight] in weights.values():
        weight.grad = torch.ones(4)
    optimizer_step(optimizer)
    moved = {name: float(weight.detach().abs().max()) for name, [weight] in weights.items()}
    assert moved["projection"] == pytest.approx(10 * moved["adapter"], rel=1e-3)
    same = build_optimizer(TrainSection(optimizer=kind), weights)
    assert {group["lr"] for group in same.param_groups} == {2e-4}
