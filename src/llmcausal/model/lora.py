"""LoRA adapters and their files."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from llmcausal.config import LoraSection
from llmcausal.errors import CheckpointError, ConfigError
from llmcausal.storage import read_at_most

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
MAX_CONFIG_BYTES = 2**20
_NAMES = ("target_modules", "exclude_modules", "layers_pattern")
"""peft also takes these settings as regular expressions, which can backtrack endlessly."""


def read_adapter_config(folder: Path) -> LoraConfig:
    """Reads a LoRA adapter's settings and checks them against its weights.

    Raises:
        CheckpointError: If a file is missing or damaged, or the settings are not LoRA's.
    """
    file = folder / ADAPTER_CONFIG
    for path in (file, folder / ADAPTER_WEIGHTS):
        if not path.is_file():
            raise CheckpointError(f"{path}: missing; there is no adapter")
    settings = _settings(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft warns of the settings of later versions
            config = PeftConfig.from_pretrained(str(folder))
    except Exception as error:  # peft promises nothing about a broken file
        raise CheckpointError(f"{file}: not an adapter's settings: {error}") from error
    if not isinstance(config, LoraConfig):
        raise CheckpointError(f"{file}: peft_type: {settings.get('peft_type')!r}, not LORA")
    if (rank := _rank(folder / ADAPTER_WEIGHTS)) != config.r:
        raise CheckpointError(f"{file}: r: {config.r}, but the weights are of rank {rank}")
    return config


def _settings(file: Path) -> dict[str, Any]:
    try:
        settings = json.loads(read_at_most(file, MAX_CONFIG_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: not an adapter's settings: {error}") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{file}: not an adapter's settings: must be a JSON object")
    for name in _NAMES:
        value = settings.get(name)
        plain = isinstance(value, list) and all(isinstance(each, str) for each in value)
        if value is not None and not plain:
            raise CheckpointError(f"{file}: {name}: must be a list of names of layers")
    if type(settings.get("r")) is not int or settings["r"] < 1:
        raise CheckpointError(f"{file}: r: must be a whole number of at least 1")
    if type(settings.get("lora_alpha")) not in (int, float):
        raise CheckpointError(f"{file}: lora_alpha: must be a number")
    return settings


def _rank(weights: Path) -> int:
    """Reads the weights' rank from the file's header."""
    try:
        with safe_open(weights, framework="pt") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys() if "lora_A" in name]  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{weights}: damaged: {error}") from error
    ranks = {shape[0] for shape in shapes if len(shape) == 2}
    if len(ranks) != 1:
        raise CheckpointError(f"{weights}: holds no LoRA weights of one rank")
    return int(ranks.pop())


def add_lora(
    model: PreTrainedModel, section: LoraSection, seed: int, *, dtype: torch.dtype = torch.float32
) -> PeftModel:
    """Puts trainable adapters on the named linear layers of a frozen model.

    Args:
        seed: Decides the adapters' initial weights, independently of earlier draws.
        dtype: The adapters' dtype; fp32 adapters in a narrower model need autocast.

    Raises:
        ConfigError: If the model has no layer of such a name.
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
    """Puts a saved adapter on a frozen model; a `CheckpointError` if it does not fit."""
    config = read_adapter_config(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return PeftModel.from_pretrained(model, folder, config=config)
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # peft promises nothing about broken files
        raise CheckpointError(f"{folder}: not an adapter for this model: {error}") from error


@dataclass(frozen=True)
class Adapter:
    """An active adapter of a layer: it adds scale (x @ A.T) @ B.T."""

    down: Tensor  # A [rank, in]
    up: Tensor  # B [out, rank]
    scale: float


def plain_adapters(layer: Any) -> list[Adapter] | None:
    """Returns a LoRA layer's active adapters; None if they do more than add a product."""
    if layer.merged or layer.lora_variant or any(layer.lora_bias.values()):
        return None
    found: list[Adapter] = []
    for name in [] if layer.disable_adapters else layer.active_adapters:
        if name not in layer.lora_A:
            continue
        dropout, down, up = layer.lora_dropout[name], layer.lora_A[name], layer.lora_B[name]
        idle = isinstance(dropout, nn.Identity) or not layer.training
        if not idle or type(down) is not nn.Linear or type(up) is not nn.Linear:
            return None
        found.append(Adapter(down.weight, up.weight, layer.scaling[name]))
    return found


def write_scaled(adapter: Path, folder: Path, scale: float) -> None:
    """Writes a copy of an adapter whose update is `scale` times as large.

    The factor goes into the B matrices, since programs differ in reading `lora_alpha`: vLLM takes
    whole numbers only.
    """
    read_adapter_config(adapter)
    shutil.copyfile(adapter / ADAPTER_CONFIG, folder / ADAPTER_CONFIG)
    weights = {
        name: (scale * value.float()).to(value.dtype) if ".lora_B" in name else value
        for name, value in load_file(adapter / ADAPTER_WEIGHTS).items()
    }
    save_file(weights, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
