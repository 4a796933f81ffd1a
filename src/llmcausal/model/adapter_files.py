"""An adapter's folder, checked before a library believes it: its settings may lie."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftConfig
from safetensors import SafetensorError, safe_open

from llmcausal.errors import CheckpointError
from llmcausal.storage import read_at_most

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
MAX_CONFIG_BYTES = 2**20
_NAMES = ("target_modules", "exclude_modules", "layers_pattern")
"""Settings that peft also takes as a regular expression, which may backtrack for ever."""


def read_adapter_config(folder: Path) -> LoraConfig:
    """Reads the settings of a LoRA adapter, if they fit the weights beside them.

    Raises:
        CheckpointError: If a file is missing or damaged, or the settings are of something else.
    """
    file = folder / ADAPTER_CONFIG
    for path in (file, folder / ADAPTER_WEIGHTS):
        if not path.is_file():
            raise CheckpointError(f"{path}: missing; there is no adapter")
    settings = _settings(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft names the settings of later versions
            config = PeftConfig.from_pretrained(str(folder))
    except Exception as error:  # peft promises nothing about a file that lies
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
    alpha = settings.get("lora_alpha")
    if type(alpha) not in (int, float):
        raise CheckpointError(f"{file}: lora_alpha: must be a number")
    return settings


def _rank(weights: Path) -> int:
    """Returns the rank that the weights have, from the file's header alone."""
    try:
        with safe_open(weights, framework="pt") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys() if "lora_A" in name]  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{weights}: damaged: {error}") from error
    ranks = {shape[0] for shape in shapes if len(shape) == 2}
    if len(ranks) != 1:
        raise CheckpointError(f"{weights}: holds no LoRA weights of one rank")
    return int(ranks.pop())
