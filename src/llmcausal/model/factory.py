"""Loads a profile's causal language model and tokenizer, frozen and quantized."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    modeling_utils,
)
from transformers.utils import logging as transformers_logging

from llmcausal.config import MemorySection, ModelSection
from llmcausal.errors import ModelError, StorageError, first_line
from llmcausal.model.device import choose_device, choose_dtype
from llmcausal.model.gguf import PREFIX, cache_dir, converted, find_gguf
from llmcausal.model.placement import hold_weights, parts_on_host
from llmcausal.model.prequantized import check_head, set_compute_dtype, stored_quantization
from llmcausal.model.tree_attention import TREE_ATTENTION

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class LoadedModel:
    """A frozen model in evaluation mode, ready for adapters; `dtype` is its compute dtype."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    device: torch.device
    dtype: torch.dtype


def resolve_source(section: ModelSection) -> str:
    """Turns `model.name` into a hub id or a local folder for `from_pretrained`.

    Raises:
        ModelError: If the package or folder does not exist, or its GGUF cannot be read.
        StorageError: If the cache cannot be written.
    """
    name = section.name
    if name.startswith(PREFIX):
        file = find_gguf(name)
        try:
            with quiet_libraries():
                return str(converted(file))
        except OSError as error:
            raise StorageError(
                f"{cache_dir()}: the converted model cannot be written: {error.strerror or error}. "
                "Set LLMCAUSAL_CACHE to a folder with space."
            ) from error
        except ModelError:
            raise
        except Exception as error:  # the libraries promise nothing about a broken file
            reason = f"{type(error).__name__}: {error}"
            raise ModelError(f"{file}: cannot be converted: {reason}") from error
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"model.name = {name!r}: this folder has no config.json")
        return str(folder)
    if name.startswith((".", "/", "~")) or name.count("/") != 1 or "\\" in name:
        raise ModelError(
            f"model.name = {name!r}: no such folder. Give a local folder with a config.json, a hub "
            "id as owner/name, or package:MODULE for a GGUF inside an installed package."
        )
    return name


def attention_name(section: ModelSection) -> str:
    """Returns transformers' name of the profile's attention."""
    return TREE_ATTENTION if section.attention == "tree" else section.attention


def nf4_settings(
    section: ModelSection,
    dtype: torch.dtype,
    stored: BitsAndBytesConfig | None = None,
    *,
    beside_host: bool = False,
) -> BitsAndBytesConfig:
    """Returns the quantization of linear layers that compute in a dtype.

    Args:
        stored: That of the checkpoint, if its weights are in 4 bits: some keep more layers than
            the head in 16 bits.
        beside_host: Whether other modules stay in host memory. transformers needs a setting for
            that, which also holds for 4 bits despite its name.
    """
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=section.double_quantization,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=stored and stored.llm_int8_skip_modules,
        llm_int8_enable_fp32_cpu_offload=beside_host,
    )


def load_tokenizer(section: ModelSection) -> PreTrainedTokenizerFast:
    """Loads the tokenizer of the profile's model; raises a `ModelError` if it cannot."""
    return _tokenizer(section, resolve_source(section))


def load_model(
    section: ModelSection, memory: MemorySection | None = None, *, onto_host: bool = False
) -> LoadedModel:
    """Loads model and tokenizer; with `nf4` every linear layer but the head is quantized.

    A checkpoint may store those layers in 4 bits already.

    Args:
        memory: Whether embeddings and head stay in host memory, without passing the device;
            None: all goes to the device.
        onto_host: Leave all weights in host memory, for `shard_layers`.

    Raises:
        ModelError: If they cannot be found or loaded.
        ConfigError: If the settings contradict a checkpoint in 4 bits.
    """
    source = resolve_source(section)
    tokenizer = _tokenizer(section, source)
    device = choose_device(section.device)
    dtype = choose_dtype(section.precision, device)
    place = _CPU if onto_host else device
    with quiet_libraries(), _explained(section):
        config = AutoConfig.from_pretrained(
            source, revision=section.revision, trust_remote_code=section.trust_remote_code
        )
    stored = stored_quantization(getattr(config, "quantization_config", None), section)
    on_host = _modules_on_host(config, section, memory, place) if memory else []
    arguments: dict[str, Any] = {
        "revision": section.revision,
        "trust_remote_code": section.trust_remote_code,
        "dtype": dtype,
        "device_map": {"": place, **dict.fromkeys(on_host, _CPU)},
        "attn_implementation": attention_name(section),
    }
    if section.quantization == "nf4":
        settings = nf4_settings(section, dtype, stored, beside_host=bool(on_host))
        if stored is None:
            arguments["quantization_config"] = settings
        else:  # transformers ignores an argument in favour of the checkpoint's own settings
            config.quantization_config = settings.to_dict()
            arguments["config"] = config
    with quiet_libraries(), _explained(section), _undispatched() if on_host else nullcontext():
        model = AutoModelForCausalLM.from_pretrained(source, **arguments)
    if stored is not None:
        check_head(model, section.name)
        set_compute_dtype(model, dtype)
    # peft's k-bit preparation would also cast every unquantized parameter to fp32, which doubles
    # activations and copies the head in each forward pass.
    model.requires_grad_(False)
    keep_exact_on_cpu(model)
    model.eval()
    model.config.use_cache = False
    if memory is not None:
        hold_weights(model, memory, device)
    return LoadedModel(model, tokenizer, device, dtype)


def _modules_on_host(
    config: Any, section: ModelSection, memory: MemorySection, device: torch.device
) -> list[str]:
    """Names the modules that load to the host while the model goes to another device."""
    if device == _CPU or "host" not in (memory.embeddings, memory.head):
        return []
    with quiet_libraries(), _explained(section), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, trust_remote_code=section.trust_remote_code
        )
    chosen = parts_on_host(model, memory).values()
    return [name for name, module in model.named_modules() if any(module is c for c in chosen)]


@contextmanager
def _undispatched() -> Iterator[None]:
    """Loads to several devices without accelerate's dispatch, which would compute on one of them.

    It may also move everything to the host first, since it takes any device for the main one.
    """
    with patch.object(modeling_utils, "accelerate_dispatch", lambda *_arguments: None):
        yield


def _tokenizer(section: ModelSection, source: str) -> PreTrainedTokenizerFast:
    with quiet_libraries(), _explained(section):
        tokenizer = AutoTokenizer.from_pretrained(
            source, revision=section.revision, trust_remote_code=section.trust_remote_code
        )
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(
            f"model.name = {section.name!r}: its tokenizer ({type(tokenizer).__name__}) is not a "
            "fast one; only those keep text from becoming control tokens"
        )
    return tokenizer


def keep_exact_on_cpu(model: PreTrainedModel) -> None:
    """Stops bitsandbytes from repacking weights at the first evaluation on CPUs with AVX512-BF16.

    The repacked kernel has no backward pass and rounds the scales to bf16. After a validation,
    training would follow wrong gradients; torch would only warn.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


@contextmanager
def _explained(section: ModelSection) -> Iterator[None]:
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        first = first_line(error)
        if "custom code" in first and not section.trust_remote_code:
            raise ModelError(
                f"model.name = {section.name!r}: the model brings its own code, which was not run. "
                "If you have read and trust it: --trust-remote-code (eval, export), or "
                "model.trust_remote_code = true in the profile."
            ) from error
        offline = os.environ.get("HF_HUB_OFFLINE") == "1"
        raise ModelError(
            f"model.name = {section.name!r}: cannot be loaded: {first}\n"
            "If it is on the hub: check the spelling, accept its licence on its page, log in with "
            "`hf auth login`"
            + (", and unset HF_HUB_OFFLINE." if offline else ", and check the network.")
        ) from error


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hides the libraries' progress bars and advice, but not their errors."""
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    quieted = [logging.getLogger(name) for name in ("bitsandbytes", "huggingface_hub", "gguf")]
    levels = [logger.level for logger in quieted]
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for logger in quieted:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
        for logger, old in zip(quieted, levels, strict=True):
            logger.setLevel(old)
