"""Another checkpoint in place of the untouched base, in the same model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmcausal.config import RunConfig
from llmcausal.errors import CheckpointError, UsageError
from llmcausal.evaluation.evaluate import Weights
from llmcausal.profile import config_differences, load_config
from llmcausal.train.checkpoint import CONFIG, has_projection, restore_weights, verify
from llmcausal.train.step import TripletStep

_OF_ADAPTER = (
    "model.name",
    "model.revision",
    "model.quantization",
    "model.double_quantization",
    "lora.rank",
    "lora.alpha",
    "lora.target_modules",
)
_APART = "Evaluate each by itself, and leave out --against."
_OF_PROJECTION = ("loss.projection_", "loss.layer", "loss.pooling")


@dataclass(frozen=True)
class Other:
    """The model that the tuned one is compared with, where it is not the untouched base.

    `weights` puts its weights into the model for a while. `projected` says whether it has a
    projection head of its own that fits.
    """

    name: str
    weights: Weights
    projected: bool


def check_alike(
    config: RunConfig, manifest: Mapping[str, Any], against: Path, baseline: bool
) -> None:
    """Refuses to compare in one run what does not fit into one model.

    `config` and `manifest` are of the tuned checkpoint.

    Raises:
        UsageError: If no baseline is wanted.
        CheckpointError: If `against` is damaged, or of another model, shape of adapter or
            prompt rendering.
    """
    if not baseline:
        raise UsageError("--against and --no-baseline exclude one another: leave one out")
    template = verify(against)["template"]
    changes = config_differences(load_config(against / CONFIG), config)
    if unlike := [change for change in changes if change.startswith(_OF_ADAPTER)]:
        raise CheckpointError(
            f"{against}: cannot be compared in one run, since its model or adapter differs: "
            f"{'; '.join(unlike)}. {_APART}"
        )
    if template != manifest["template"]:
        raise CheckpointError(
            f"{against}: cannot be compared in one run, since it was trained with another chat "
            f"template or tokenizer. {_APART}"
        )


def other_checkpoint(
    config: RunConfig, model: Any, step: TripletStep, against: Path, checkpoint: Path
) -> Other:
    """Returns `against` as the model to compare with; `checkpoint` is put back after each use."""
    changes = config_differences(load_config(against / CONFIG), config)
    own_head = not any(change.startswith(_OF_PROJECTION) for change in changes)
    projection = step.objective.projection if own_head and has_projection(against) else None

    @contextmanager
    def weights() -> Iterator[None]:
        restore_weights(against, model, projection)
        try:
            yield
        finally:
            restore_weights(checkpoint, model, projection)

    return Other(str(against), weights, projection is not None)
