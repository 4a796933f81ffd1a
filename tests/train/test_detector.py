"""The detector learns to separate injected prompts from fixed states."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from llmcausal.losses.base import ProjectionHead
from llmcausal.losses.contrastive import CausalContrastive
from llmcausal.train.detector import learn_detector

WIDTH = 24
REPOSITORY = Path(__file__).parents[2]


def states(count: int, seed: int, *, marked: bool = True) -> dict[Any, torch.Tensor]:
    """Random texts; injected ones share a small direction."""
    generator = torch.Generator().manual_seed(seed)

    def texts() -> torch.Tensor:
        common = 5 * torch.ones(WIDTH)
        return common + torch.randn(count, WIDTH, generator=generator)

    mark = torch.zeros(WIDTH)
    mark[0] = 4 if marked else 0
    benign = texts()
    return {"benign": benign, "benign_cf": texts(), "injection": benign + mark}


def contrastive() -> CausalContrastive:
    return CausalContrastive(0.25, 0.75, stability_target=0.9, separation_target=1.1)


def learned(training: Any, validation: Any, seed: int = 0) -> tuple[ProjectionHead, dict[str, Any]]:
    head = ProjectionHead(WIDTH, 32, 16, seed=seed)
    found = learn_detector(head, contrastive(), training, validation, learning_rate=3e-3, seed=seed)
    return head, found


def test_it_tells_injected_texts_apart_that_it_never_saw() -> None:
    _, found = learned(states(128, seed=1), states(64, seed=2))
    assert found["causal_stability"] > 0.8
    assert found["spurious_separation"] > 0.75
    assert found["causal_discrimination"] > 0.6


def test_nothing_to_tell_apart_is_not_told_apart() -> None:
    _, found = learned(states(128, seed=1, marked=False), states(64, seed=2, marked=False))
    assert found["spurious_separation"] == pytest.approx(0, abs=1e-5)


def test_it_is_the_same_in_every_process() -> None:
    """Each Python process orders sets of strings differently."""
    code = (
        "import hashlib; from tests.train.test_detector import learned, states; "
        "head, _ = learned(states(40, 1), states(20, 2)); "
        "print(hashlib.sha256(b''.join(p.detach().numpy().tobytes() for p in head.parameters()))"
        ".hexdigest())"
    )
    found = set()
    for seed in (0, 1):
        environment = {**os.environ, "PYTHONHASHSEED": str(seed), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=REPOSITORY, capture_output=True,
            text=True, check=True,
        )  # fmt: skip
        found.add(done.stdout)
    assert len(found) == 1


def test_it_is_the_same_every_time_and_without_a_validation_too() -> None:
    training, validation = states(40, seed=1), states(20, seed=2)
    first, second = (learned(training, validation)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    head, found = learned(training, None)
    assert found == {}
    assert not torch.equal(head.state_dict()["input.weight"],
                           ProjectionHead(WIDTH, 32, 16).state_dict()["input.weight"])  # fmt: skip


def test_the_weights_of_the_best_validation_are_kept() -> None:
    """Validation texts of another kind, which longer training fits worse."""
    training, validation = states(8, seed=1), states(64, seed=2, marked=False)
    validation["injection"] = validation["benign"] + torch.randn(WIDTH)
    head, found = learned(training, validation)
    again = contrastive()
    with torch.no_grad():
        loss = again({name: head(rows) for name, rows in validation.items()}).mean()
    assert float(loss) == pytest.approx(found["contrastive_loss"], abs=1e-6)
