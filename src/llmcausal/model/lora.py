"""Low-rank adapters on a frozen model, by peft."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from llmcausal.config import LoraSection
from llmcausal.errors import CheckpointError, ConfigError
from llmcausal.model.adapter_files import read_adapter_config


def add_lora(
    model: PreTrainedModel,
    section: LoraSection,
    seed: int,
    *,
    dtype: torch.dtype = torch.float32,
) -> PeftModel:
    """Puts trainable adapters on the named linear layers; the rest stays frozen.

    Args:
        model: A frozen model.
        section: Rank, scale, dropout and which layers.
        seed: Decides the adapters' initial weights, whatever was drawn before.
        dtype: Of the adapters; fp32 under a model of lower precision wants autocast.

    Raises:
        ConfigError: If the model has no layer of one of the names.
    """
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    if missing := [name for name in section.target_modules if name not in names]:
        linear = {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear)
        }
        raise ConfigError(
            f"lora.target_modules: {type(model).__name__} has no layer named "
            f"{', '.join(missing)}. Its linear layers: {', '.join(sorted(linear))}"
        )
    config = LoraConfig(
        r=section.rank,
        lora_alpha=section.alpha,  # type: ignore[arg-type]  # peft takes floats too
        lora_dropout=section.dropout,
        target_modules=list(section.target_modules),
        task_type="CAUSAL_LM",
    )
    drawn_on = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=drawn_on), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(seed)
        peft_model = get_peft_model(model, config, autocast_adapter_dtype=False)
    assert isinstance(peft_model, PeftModel)
    for parameter in peft_model.parameters():
        if parameter.requires_grad:  # peft gives them the base's dtype, or fp32 on 4-bit layers
            parameter.data = parameter.data.to(dtype)
    return peft_model


def load_adapter(model: PreTrainedModel, folder: Path) -> PeftModel:
    """Puts a saved adapter on a frozen model, for evaluation and export.

    Raises:
        CheckpointError: If the folder holds no adapter that fits the model.
    """
    config = read_adapter_config(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return PeftModel.from_pretrained(model, folder, config=config)
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # peft promises nothing about files that lie
        raise CheckpointError(f"{folder}: not an adapter for this model: {error}") from error
