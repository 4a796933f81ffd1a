"""Micro-batches that the planner may choose have the gradients of single triplets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from llmcausal.assembly import build
from llmcausal.config import RunConfig
from llmcausal.memory.prediction import Workload
from llmcausal.memory.spare import larger_sizes, with_batch_size
from llmcausal.model.factory import LoadedModel
from llmcausal.train.batch import fixed_batches, label_totals


@pytest.mark.parametrize("gradient", ["head", "model"])
def test_gradients_are_those_of_single_triplets(random_model: Any, gradient: str) -> None:
    """In fp64, with triplets of unequal lengths."""
    config = RunConfig.model_validate(
        {
            "model": {"quantization": "none", "device": "cpu"},
            "memory": {"strategy": "manual", "lora_dtype": "compute"},
            "train": {"batch_size": 1, "accumulation_steps": 6},
            "loss": {
                "contrast_gradient": gradient,
                "lambda_state": 0.5,
                "projection_dim": 8,
                "lambda_adversarial": 0.2,
            },
        }
    )
    triplets = [Workload(20 + 7 * n, 3 * n, 4 + n).made_up()[0] for n in range(6)]
    model = random_model("llama", torch.float64, exact_norms=True)
    loaded = LoadedModel(model, None, torch.device("cpu"), torch.float64)  # type: ignore[arg-type]
    step = build.build_step(config, loaded, model)
    heads = [module.double() for module in step.objective.modules]
    trained = [p for module in (model, *heads) for p in module.parameters() if p.requires_grad]

    def gradients(size: int) -> Tensor:
        larger = with_batch_size(config, size)
        found = fixed_batches(triplets, size, step.objective.needs, config.loss.pooling)
        assert len(found) == larger.train.accumulation_steps
        for parameter in trained:
            parameter.grad = None
        for batch in found:
            step(batch, label_totals(found), Tensor.backward)
        return torch.cat([p.grad.flatten() for p in trained if p.grad is not None])

    single = gradients(1)
    assert larger_sizes(config) == [2, 3, 6]
    for size in larger_sizes(config):
        assert float((gradients(size) - single).norm() / single.norm()) < 1e-10
