"""An export's source: a checkpoint's adapter and its base, unquantized or stored in 4 bits."""

from __future__ import annotations

import copy
import json
import math
import operator
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from peft import LoraConfig, PeftModel
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from llmcausal.data.spans import Content
from llmcausal.data.template import ChatTemplate
from llmcausal.errors import ModelError, first_line
from llmcausal.model.lora import ADAPTER_CONFIG, load_adapter, read_adapter_config
from llmcausal.model.prequantized import read_quantization, settings_in

SENTENCE_PIECE = "tokenizer.model"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CODES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}

Figures = Mapping[str, Mapping[str, Any]]
"""Each metric's `value`, `n` and 95% interval `low`, `high`."""


@dataclass(frozen=True)
class AttackSuite:
    prompts: Sequence[tuple[str, Content]]  # the system prompt and what follows it
    max_new_tokens: int
    score: Callable[[Sequence[str]], Figures]  # of the answers to all prompts


@dataclass(frozen=True)
class TrainingFacts:
    settings: Mapping[str, str]
    suite: str = ""
    base: Figures | None = None  # on the suite
    tuned: Figures | None = None  # on the suite


@dataclass(frozen=True)
class CheckpointParts:
    """What makes an adapter's folder a checkpoint again, without the state of its training."""

    files: Mapping[str, bytes]  # settings, and the detector if it fits
    facts: Mapping[str, Any]  # for the manifest
    detector: str  # whether it is among the files and may be used, in words


@dataclass(frozen=True)
class ExportSource:
    adapter_dir: Path  # a verified checkpoint
    # Loads the base as its files are. A function, so that an exporter holds one copy at a time.
    load_base: Callable[[], PreTrainedModel]
    template: ChatTemplate
    base_name: str  # a hub id, or a local folder
    dtype: torch.dtype  # of the exported weights, and of the base that `load_base` returns
    base_revision: str | None = None
    trust_remote_code: bool = False
    attacks: AttackSuite | None = None  # for the check
    training: TrainingFacts | None = None
    spans: bool = False  # the training data have several
    parts: CheckpointParts | None = None  # for an adapter's folder

    def base_for_consumers(self) -> str:
        """Returns the hub id, or the folder's absolute path."""
        folder = Path(self.base_name).expanduser()
        return str(folder.resolve()) if folder.is_dir() else self.base_name

    @cached_property
    def base_folder(self) -> Path:
        """The folder with the base's files; training has put a hub model's into the cache.

        Raises:
            ModelError: If there is no such folder, and the hub does not have the files.
        """
        folder = Path(self.base_name).expanduser()
        if folder.is_dir():
            return folder.resolve()
        try:
            return Path(
                snapshot_download(
                    self.base_name,
                    revision=self.base_revision,
                    allow_patterns=["*.json", "*.safetensors", "*.py", SENTENCE_PIECE],
                )
            )
        except (OSError, ValueError) as error:
            reason = first_line(error)
            raise ModelError(f"{self.base_name}: its files cannot be found: {reason}") from error

    def adapter_config(self) -> LoraConfig:
        """Returns the adapter's settings.

        Raises:
            CheckpointError: If the checkpoint has no adapter, or a damaged one.
            ModelError: If it is not plain LoRA: merging and vLLM accept no other.
        """
        config = read_adapter_config(self.adapter_dir)
        unusual = {
            "use_dora": config.use_dora,
            "bias": config.bias != "none",
            "lora_bias": config.lora_bias,
            "modules_to_save": config.modules_to_save,
            "trainable_token_indices": config.trainable_token_indices,
            "rank_pattern": config.rank_pattern,
            "alpha_pattern": config.alpha_pattern,
        }
        if names := [name for name, value in unusual.items() if value]:
            raise ModelError(
                f"{self.adapter_dir / ADAPTER_CONFIG}: {', '.join(names)}: only plain LoRA can be "
                "merged, and served by vLLM; train without these"
            )
        return config

    @cached_property
    def nf4(self) -> BitsAndBytesConfig | None:
        """The stored quantization, None in 16 or 32 bits; raises a ModelError for another one."""
        return read_quantization(settings_in(self.base_folder), self.base_name)

    def load(self) -> PeftModel:
        model = load_adapter(self.load_base(), self.adapter_dir)
        model.eval()
        return model

    def model_config(self) -> Any:
        config = AutoConfig.from_pretrained(
            self.base_folder, trust_remote_code=self.trust_remote_code
        )
        config.dtype = self.dtype
        config.use_cache = True
        if hasattr(config, "quantization_config"):  # what is written here is dequantized
            del config.quantization_config
        return config

    def save_tokenizer(self, folder: Path) -> None:
        self._save(copy.deepcopy(self.template.tokenizer), folder)

    def save_tokenizer_for_llama_cpp(self, folder: Path) -> None:
        tokenizer = copy.deepcopy(self.template.tokenizer)
        # llama.cpp ends answers at the file's eos token.
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(self.template.stop_ids[0])
        self._save(tokenizer, folder)
        scores = self.base_folder / SENTENCE_PIECE
        if scores.is_file():  # llama.cpp merges tokens by scores, which tokenizer.json lacks
            shutil.copyfile(scores, folder / SENTENCE_PIECE)
            path = folder / "tokenizer_config.json"
            config = json.loads(path.read_text(encoding="utf-8"))
            config["add_prefix_space"] = self.template.spaces_after_controls
            path.write_text(json.dumps(config), encoding="utf-8")

    def _save(self, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
        tokenizer.chat_template = self.template.exported
        tokenizer.save_pretrained(folder)

    def generation_config(self) -> GenerationConfig:
        """Returns the base's generation settings with all end-of-turn tokens."""
        if (self.base_folder / "generation_config.json").is_file():
            config = GenerationConfig.from_pretrained(str(self.base_folder))
        else:
            config = GenerationConfig.from_model_config(self.model_config())
        config.eos_token_id = list(self.template.stop_ids)
        if config.pad_token_id is None:
            pad = self.template.tokenizer.pad_token_id
            config.pad_token_id = self.template.stop_ids[0] if pad is None else pad
        if not config.do_sample:
            # Some published models set these with do_sample=False, which cannot be saved.
            config.temperature = config.top_p = config.top_k = None
        config.use_cache = True
        config._from_model_config = False  # otherwise a loader may derive it from config.json
        return config


@dataclass(frozen=True)
class Stored:
    name: str
    shape: tuple[int, ...]
    code: str  # number format in safetensors' spelling
    file: Path

    @property
    def is_float(self) -> bool:
        """Whether it holds weights, not positions or masks."""
        return self.code in CODES.values()

    @property
    def numbers(self) -> int:
        return math.prod(self.shape)

    def loaded_bytes(self, dtype: torch.dtype) -> int:
        return self.numbers * dtype.itemsize

    def read(self) -> torch.Tensor:
        # Reopening the file drops the mapped pages of earlier tensors.
        with safe_open(self.file, framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(self.name)
            return tensor


def files_of(folder: Path) -> dict[str, list[str]]:
    """Returns weight files and their tensors' names; raises a ModelError if none can be found."""
    index = folder / INDEX
    if not index.is_file():
        if not (folder / WEIGHTS).is_file():
            raise ModelError(
                f"{folder}: no {WEIGHTS} and no {INDEX}; the base model must be in safetensors "
                "format: load it with transformers and save it with save_pretrained"
            )
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            return {WEIGHTS: sorted(file.keys())}
    try:
        files: dict[str, list[str]] = {}
        for name, file_name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].items():
            if Path(file_name).name != file_name:
                raise ModelError(f"{index}: weight_map: {file_name!r} is not a plain file name")
            files.setdefault(file_name, []).append(name)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{index}: cannot be read: {error!r}") from error
    return files


def stored(folder: Path, file_name: str, names: Sequence[str]) -> list[Stored]:
    """Returns a weight file's tensors without reading them; raises a ModelError if damaged."""
    path = folder / file_name
    try:
        with safe_open(path, framework="pt") as file:
            found = []
            for name in names:
                piece = file.get_slice(name)
                found.append(Stored(name, tuple(piece.get_shape()), piece.get_dtype(), path))
            return found
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error


STATE = "quant_state.bitsandbytes__nf4"
"""A 4-bit weight's shape and block sizes, as JSON in bytes."""
AGAIN = "download or save this file again, or export from a base with 16-bit weights"
NESTED = ("nested_absmax", "nested_quant_map")
PARTS = (STATE, "absmax", "quant_map", *NESTED)
"""What belongs to a 4-bit weight; each name follows the weight's."""


@dataclass(frozen=True)
class StoredNf4(Stored):
    """A weight in 4 bits, which reads dequantized, in fp32."""

    parts: Mapping[str, Stored]

    def loaded_bytes(self, dtype: torch.dtype) -> int:
        parts = sum(each.numbers * (4 if each.is_float else 1) for each in self.parts.values())
        return -(-self.numbers // 2) + parts

    def read(self) -> torch.Tensor:
        """Computes code x scale, as bitsandbytes does; a ModelError if the parts do not fit."""
        try:
            state = _state_of(self.parts[STATE])
            scales = self.parts["absmax"].read()
            if NESTED[0] in self.parts:
                outer, table = (self.parts[name].read() for name in NESTED)
                block = torch.arange(len(scales)) // state["nested_blocksize"]
                scales = table[scales.int()] * outer[block] + state["nested_offset"]
            packed, size = super().read().flatten(), state["blocksize"]
            codes = torch.stack((packed >> 4, packed & 15), dim=1).flatten()[: self.numbers]
            weight = self.parts["quant_map"].read()[codes.int()]
            padded = torch.nn.functional.pad(weight, (0, -self.numbers % size)).view(-1, size)
            whole: torch.Tensor = padded.mul_(scales[:, None]).flatten()[: self.numbers]
            return whole.view(self.shape)
        except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
            raise ModelError(
                f"{self.file}: {self.name}: its 4 bits are damaged: {error}; {AGAIN}"
            ) from error


def _state_of(part: Stored) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(bytes(part.read().numpy()))
    return state


def weights_of(folder: Path) -> dict[str, list[Stored]]:
    """Returns the weights of each of a model folder's files without reading them.

    A 4-bit weight and its parts are one; a file with nothing else is left out.

    Raises:
        ModelError: If a file or a tensor is missing or damaged.
    """
    files = {name: stored(folder, name, tensors) for name, tensors in files_of(folder).items()}
    named = {each.name: each for tensors in files.values() for each in tensors}
    taken: set[str] = set()
    packed: dict[str, StoredNf4] = {}
    for name, each in named.items():
        if f"{name}.{STATE}" not in named:
            continue
        parts = {part: named[f"{name}.{part}"] for part in PARTS if f"{name}.{part}" in named}
        taken |= {f"{name}.{part}" for part in parts}
        packed[name] = _nf4(each, parts)
    for name, each in named.items():
        if name not in taken and name not in packed:
            _check_whole(each)
    found = {
        file: [packed.get(each.name, each) for each in tensors if each.name not in taken]
        for file, tensors in files.items()
    }
    return {file: tensors for file, tensors in found.items() if tensors}


def _check_whole(each: Stored) -> None:
    """Raises a ModelError for a tensor that belongs to quantized weights of which parts lack."""
    part = any(f".{name}" in each.name for name in (*PARTS[1:], "quant_state.bitsandbytes"))
    if part or (each.name.endswith(".weight") and each.code.startswith(("U", "I"))):
        raise ModelError(
            f"{each.file}: {each.name}: its 4-bit weight is incomplete (each has "
            f"NAME.{STATE}, NAME.absmax and NAME.quant_map); {AGAIN}"
        )


def _nf4(each: Stored, parts: Mapping[str, Stored]) -> StoredNf4:
    try:
        rows, columns = map(operator.index, _state_of(parts[STATE])["shape"])
        if not 0 < rows * columns <= 2 * each.numbers:
            raise ValueError(f"{rows} x {columns} weights in {each.numbers} bytes")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        reason = f"its shape cannot be read: {error}; {AGAIN}"
        raise ModelError(f"{each.file}: {each.name}: {reason}") from error
    return StoredNf4(each.name, (rows, columns), CODES[torch.float32], each.file, parts)
