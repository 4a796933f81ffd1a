"""Checkpoints that store their linear layers in 4 bits (`bnb-4bit`), as bitsandbytes saves them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from transformers import BitsAndBytesConfig

from llmcausal.config import ModelSection
from llmcausal.errors import ConfigError, ModelError


def settings_in(folder: Path) -> object:
    """Returns a model folder's `quantization_config` or None; a `ModelError` if unreadable."""
    path = folder / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("quantization_config")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read: {error}; restore this file") from error


def read_quantization(settings: object, name: str) -> BitsAndBytesConfig | None:
    """Reads `quantization_config` of a config.json; None: the weights have 16 or 32 bits.

    Raises:
        ModelError: If the weights are not NF4 by bitsandbytes.
    """
    if settings is None:
        return None
    found = settings if isinstance(settings, Mapping) else {}
    objection, read = _objection(found), None
    if not objection:
        try:
            read = BitsAndBytesConfig.from_dict(dict(found))
        except (ValueError, TypeError, AttributeError) as error:
            objection = f"with settings that cannot be read ({error})"
    if objection:
        raise ModelError(
            f"{name}: its weights are stored quantized {objection}; of those only NF4 by "
            "bitsandbytes (bnb-4bit) can be used. Name the model with 16-bit weights in model.name."
        )
    return read


def _objection(settings: Mapping[Any, Any]) -> str:
    if settings.get("load_in_8bit"):
        return "in 8 bits"
    if not settings.get("load_in_4bit"):
        return f"by {settings.get('quant_method', 'an unknown program')}"
    kind = settings.get("bnb_4bit_quant_type", "fp4")
    if kind != "nf4":
        return f"as {kind}"
    storage = settings.get("bnb_4bit_quant_storage") or "uint8"
    if storage != "uint8":
        return f"in blocks of {storage}"
    skipped = settings.get("llm_int8_skip_modules")
    if skipped is not None and not _are_names(skipped):
        return "with llm_int8_skip_modules that is no list of names"
    return ""


def _are_names(values: object) -> bool:
    """Tells whether these are names, which transformers reads as regular expressions."""
    if not (isinstance(values, list) and all(isinstance(value, str) for value in values)):
        return False
    try:
        return all(re.compile(f"(?:{value})") for value in values)
    except (re.error, OverflowError, RecursionError):
        return False


def stored_quantization(settings: object, section: ModelSection) -> BitsAndBytesConfig | None:
    """Reads `quantization_config` of a config.json and compares it with a profile's settings.

    Returns:
        None if the weights have 16 or 32 bits. A quantization by other programs is transformers'
        matter if the profile asks for none.

    Raises:
        ModelError: As `read_quantization`.
        ConfigError: If the profile says something else than the checkpoint.
    """
    by_bitsandbytes = isinstance(settings, Mapping) and (
        settings.get("load_in_4bit") or settings.get("load_in_8bit")
    )
    if section.quantization == "none" and not by_bitsandbytes:
        return None
    stored = read_quantization(settings, f"model.name = {section.name!r}")
    if stored is None:
        return None
    if section.quantization == "none":
        raise ConfigError(
            f"model.quantization = 'none', but {section.name} stores its weights in NF4: set "
            "model.quantization to 'nf4', or name the model with 16-bit weights in model.name"
        )
    if stored.bnb_4bit_use_double_quant != section.double_quantization:
        says, has = ("true", "32") if section.double_quantization else ("false", "8")
        other = "false" if section.double_quantization else "true"
        raise ConfigError(
            f"model.double_quantization = {says}, but {section.name} stores its scales in {has} "
            f"bits (bnb_4bit_use_double_quant = {other} in its config.json): set "
            f"model.double_quantization to {other}"
        )
    return stored


def skips_layers(stored: BitsAndBytesConfig) -> bool:
    """Tells whether some layers, which have numbers, keep 16-bit weights."""
    names = stored.llm_int8_skip_modules or ()
    return any(character.isdigit() for name in names for character in name)


def check_head(model: Any, name: str) -> None:
    """Raises a ModelError for a head in 4 bits, which losses cannot read in parts."""
    if isinstance(model.get_output_embeddings(), Linear4bit):
        raise ModelError(
            f"model.name = {name!r}: its output head is stored in 4 bits, which losses "
            "cannot read in parts. Name the model with 16-bit weights in model.name."
        )


def set_compute_dtype(model: Any, dtype: torch.dtype) -> None:
    """Makes a model from such a checkpoint equal to one that is quantized while it loads.

    transformers keeps the stored dtypes: norms, embeddings and head stay as saved, and 4-bit
    weights unpack to the dtype that they once had, of which a backward pass makes another copy.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            weight: Any = module.weight
            weight.quant_state.dtype = dtype
    in_fp32 = _names_in_fp32(model, dtype)
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            exact = any(re.search(rf"(^|\.){each}($|\.)", name) for each in in_fp32)
            parameter.data = parameter.data.to(torch.float32 if exact else dtype)


def _names_in_fp32(model: Any, dtype: torch.dtype) -> set[str]:
    """Returns which modules transformers keeps in fp32 while it loads to a dtype."""
    names: set[str] = set()
    if dtype == torch.float16:
        names |= set(model._keep_in_fp32_modules or ())
    if dtype in (torch.float16, torch.bfloat16):
        names |= set(model._keep_in_fp32_modules_strict or ())
    return names
