"""Each contrastive loss: which members it reads, what it prefers, and the hinges."""

from __future__ import annotations

import pytest
import torch

from llmcausal.losses import LOSSES
from llmcausal.losses.contrastive import CausalContrastive, TripletMargin

EAST, NORTH, WEST = torch.tensor([[1.0, 0]]), torch.tensor([[0.0, 1]]), torch.tensor([[-1.0, 0]])


@pytest.mark.parametrize("name", LOSSES.entries)
def test_separated_is_better_than_confused(name: str) -> None:
    loss = LOSSES.load(name)()
    separated = loss({"benign": EAST, "benign_cf": EAST, "injection": WEST})
    confused = loss({"benign": EAST, "benign_cf": WEST, "injection": EAST})
    assert separated.shape == (1,)
    assert separated.item() < confused.item()


@pytest.mark.parametrize("name", LOSSES.entries)
def test_scale_of_the_representation_does_not_matter(name: str) -> None:
    loss = LOSSES.load(name)()
    rows = {"benign": EAST, "benign_cf": NORTH + EAST, "injection": WEST + NORTH}
    scaled = {member: 7 * values for member, values in rows.items()}
    torch.testing.assert_close(loss(rows), loss(scaled))


def test_members_follow_the_weights() -> None:
    assert CausalContrastive(lambda_spurious=0).members == {"benign", "benign_cf"}
    assert CausalContrastive(lambda_causal=0).members == {"benign", "injection"}
    assert CausalContrastive(0, 0).members == frozenset()


def test_hinges_stop_the_gradient_at_their_targets() -> None:
    loss = CausalContrastive(stability_target=0.9, separation_target=0.9)
    benign = torch.tensor([[1.0, 0.1]], requires_grad=True)
    loss({"benign": benign, "benign_cf": EAST, "injection": WEST}).sum().backward()
    assert benign.grad is not None
    assert benign.grad.abs().max() == 0
    benign = torch.tensor([[1.0, 1.5]], requires_grad=True)
    loss({"benign": benign, "benign_cf": EAST, "injection": EAST}).sum().backward()
    assert benign.grad is not None
    assert benign.grad.abs().max() > 0


def test_margin_is_met_exactly() -> None:
    rows = {"benign": EAST, "benign_cf": EAST, "injection": NORTH}  # cosines 1 and 0
    assert TripletMargin(margin=0.5)(rows).item() == 0
    assert TripletMargin(margin=1.25)(rows).item() == pytest.approx(0.25)
