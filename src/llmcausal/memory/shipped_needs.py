"""What each shipped profile takes of a GPU, predicted once and kept: predicting takes seconds.

`python docs/cards.py` writes the file; `describe` is what makes it stale.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmcausal.config import RunConfig
from llmcausal.memory.architecture import adapter_numbers
from llmcausal.memory.budget import needed_bytes
from llmcausal.memory.optimizer_states import states_of
from llmcausal.memory.plan import Predictor
from llmcausal.memory.prediction import Workload
from llmcausal.memory.strategies import candidates

FILE = Path(__file__).with_name("shipped_needs.json")
TERMS = ("task", "robust", "swap", "preference", "invariance", "state")
PROFILES = ("rtx4050", "llama2-7b-6gb", "minimal-4gb", "quality-12gb")


def shipped_needs() -> dict[str, dict[str, Any]]:
    """Returns the kept predictions by profile, as `predict_need` made them."""
    needs: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    return needs


def describe(config: RunConfig) -> dict[str, Any]:
    """Returns the settings that decide what a profile takes, as plain values."""
    return {
        "model": config.model.name,
        "quantization": config.model.quantization,
        "precision": config.model.precision,
        "lora_rank": config.lora.rank,
        "lora_targets": len(config.lora.target_modules),
        "optimizer": config.train.optimizer,
        "tokens": config.data.max_length,
        "triplets": config.train.batch_size,
        "terms": [name for name in TERMS if getattr(config.loss, f"lambda_{name}")],
        "contrast": config.loss.contrast_gradient if config.loss.lambda_contrastive else "none",
        "projection_dim": config.loss.projection_dim,
        "memory": config.memory.model_dump(
            mode="json", exclude_unset=True, exclude={"budget_gb", "force"}
        ),
    }


def predict_need(config: RunConfig, predictor: Predictor) -> dict[str, Any]:
    """Predicts every strategy that the planner may choose, for the longest triplets allowed.

    Args:
        config: The profile.
        predictor: Takes the worst of the shared lengths that are not known (`UNKNOWN_SHARED`).
    """
    length = config.data.max_length
    load = Workload(length, 0, min(256, length // 4), config.train.batch_size)
    strategies = []
    for option in candidates(config.memory):
        changed = config.model_copy(update={"memory": option.section})
        prediction = predictor(changed, load, option.strategy)
        strategies.append(
            {
                "name": option.name,
                "needed_bytes": needed_bytes(prediction),
                "host_bytes": prediction.host_bytes,
            }
        )
    paged = (
        sum(states_of(config.train.optimizer, numbers, 4, pages=True).host)
        for numbers in adapter_numbers(config)
    )
    return {**describe(config), "paged_bytes": sum(paged), "strategies": strategies}
