"""From settings to the parts of a step: adapters, objective and execution."""

from __future__ import annotations

import inspect

import torch
from peft import PeftModel

from llmcausal.config import LossSection, MemorySection, RunConfig, TrainSection
from llmcausal.errors import ConfigError
from llmcausal.losses import LOSSES
from llmcausal.losses.base import ContrastiveLoss, ProjectionHead
from llmcausal.model.activations import set_activations
from llmcausal.model.factory import LoadedModel
from llmcausal.model.fused import fuse
from llmcausal.model.lora import add_lora
from llmcausal.model.placement import hold_weights
from llmcausal.model.token_chunks import chunk_tokens
from llmcausal.model.trunk import check_layer, check_takes_embeddings, find_trunk
from llmcausal.train.batch import Needs
from llmcausal.train.objective import Execution, Objective
from llmcausal.train.step import TripletStep


def build_contrastive(section: LossSection) -> ContrastiveLoss | None:
    """Builds the contrastive loss from the settings that its constructor names.

    Returns:
        The loss; None if its own weights are all 0.

    Raises:
        ConfigError: If the loss is unknown or its options do not fit.
    """
    kind = LOSSES.load(section.contrastive)
    accepted = inspect.signature(kind).parameters
    if not (isinstance(kind, type) and issubclass(kind, ContrastiveLoss)):
        raise ConfigError(
            f"loss.contrastive = {section.contrastive!r}: derive it from "
            "llmcausal.losses.base.ContrastiveLoss"
        )
    settings = section.model_dump(exclude={"options", "contrastive"})
    arguments = {name: settings[name] for name in accepted if name in settings}
    try:
        loss = kind(**arguments, **section.options)
    except TypeError as error:
        raise ConfigError(f"loss.options: {section.contrastive}: {error}") from error
    return loss if loss.members else None


def build_objective(
    section: LossSection, width: int, train: TrainSection, *, trained: bool
) -> Objective:
    """Builds the objective, heads in fp32 on the CPU; a `ConfigError` if nothing is learned."""
    contrastive = contrastive_of_step(section) if trained else None
    contrasts = contrastive is not None or (not trained and section.lambda_contrastive > 0)
    projection = build_projection(section, width, train.seed) if contrasts else None
    objective = Objective(section, contrastive, projection)
    if trained and not (objective.needs.pooled or objective.needs.terms):
        raise ConfigError(
            "loss: every weight is 0, so there is nothing to learn; raise one of lambda_task, "
            "lambda_robust, lambda_causal, lambda_spurious"
        )
    if trained and learns_detector(section) and not section.projection_dim:
        raise ConfigError(
            "loss.contrast_gradient = 'head': loss.projection_dim is 0, so there is no head to "
            "train; set it to 64 or so, or contrast_gradient to 'model'"
        )
    return objective


def learns_detector(section: LossSection) -> bool:
    """Whether a head is trained on the finished model, as a detector."""
    return section.lambda_contrastive > 0 and section.contrast_gradient == "head"


def build_projection(section: LossSection, width: int, seed: int) -> ProjectionHead | None:
    """Builds a fresh head in fp32 on the CPU; None if states are compared without a head."""
    if not section.projection_dim:
        return None
    return ProjectionHead(width, section.projection_hidden_dim, section.projection_dim, seed)


def contrastive_of_step(section: LossSection) -> ContrastiveLoss | None:
    """Builds the contrastive loss if optimizer steps use it: a detector is trained after them."""
    in_the_step = section.lambda_contrastive > 0 and not learns_detector(section)
    return build_contrastive(section) if in_the_step else None


def needs_of(section: LossSection) -> Needs:
    """Returns what an objective reads, without building its heads."""
    return Objective(section, contrastive_of_step(section)).needs


def build_step(
    config: RunConfig, loaded: LoadedModel, peft_model: PeftModel, *, trained: bool = True
) -> TripletStep:
    """Builds the step function over a model with adapters, and applies the memory switches.

    Args:
        trained: Whether the model will be trained. If not, the contrastive loss is not built: a
            checkpoint may name it as code.

    Raises:
        ModelError: If the architecture is unsupported.
        ConfigError: If `loss.layer` does not exist, or a switch of `memory` does not fit the model.
    """
    set_memory(peft_model, config.memory, loaded.device)
    trunk = find_trunk(peft_model)
    check_layer(trunk.layers, config.loss.layer)
    if trained and config.loss.lambda_adversarial:
        check_takes_embeddings(trunk)
    objective = build_objective(config.loss, trunk.head.shape[1], config.train, trained=trained)
    for module in objective.modules:
        module.to(loaded.device)
    return TripletStep(trunk, objective, build_execution(config.memory, loaded.dtype))


def set_memory(peft_model: PeftModel, memory: MemorySection, device: torch.device) -> None:
    """Makes a model hold its weights and activations as the switches say.

    A second call may have leaner switches: weights in host memory stay there. The step then needs
    a new trunk (`find_trunk`) and execution (`build_execution`). `lora_dtype` is fixed.

    Raises:
        ConfigError: If a switch does not fit the model.
    """
    base = peft_model.get_base_model()
    hold_weights(base, memory, device)
    set_activations(base, memory.activations, device, memory.kept_layers)
    fuse(peft_model)
    chunk_tokens(peft_model, memory.token_chunk)


def build_execution(memory: MemorySection, dtype: torch.dtype) -> Execution:
    plain = dtype == torch.float32 or memory.lora_dtype == "compute"
    return Execution(memory.members, None if plain else dtype, memory.label_chunk)


def build_adapters(config: RunConfig, loaded: LoadedModel) -> PeftModel:
    """Puts fresh adapters on the frozen model.

    Raises:
        ConfigError: If a named layer does not exist, or the adapters would be in fp16.
    """
    dtype = torch.float32 if config.memory.lora_dtype == "fp32" else loaded.dtype
    if dtype == torch.float16:
        raise ConfigError(
            "memory.lora_dtype = 'compute' with fp16: its gradients cannot be unscaled; use bf16 "
            "(model.precision) or leave memory.lora_dtype at fp32"
        )
    return add_lora(loaded.model, config.lora, config.train.seed, dtype=dtype)
