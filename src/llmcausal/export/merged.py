"""Export target `merged`: base and adapter as one unquantized model."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from llmcausal.errors import ModelError
from llmcausal.export.artifact import ExportOptions, make_artifact
from llmcausal.export.check import Loaded, loaded_from, save_settings
from llmcausal.export.source import CODES, INDEX, WEIGHTS, ExportSource, Stored, weights_of
from llmcausal.model.lora import ADAPTER_WEIGHTS

_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Update:
    """LoRA's change of one weight: `scale * b @ a`."""

    a: torch.Tensor  # [rank, in]
    b: torch.Tensor  # [out, rank]
    scale: float  # alpha / rank, or alpha / sqrt(rank)
    transposed: bool  # the base keeps this weight as [in, out]

    def added_to(self, weight: torch.Tensor) -> torch.Tensor:
        # In fp32, so that the sum is rounded only once, when it is written.
        a, b = self.a.float(), self.b.float()
        first, second = (a.T, b.T) if self.transposed else (b, a)
        return torch.addmm(weight.float(), first, second, alpha=self.scale)


def merge(source: ExportSource, folder: Path) -> None:
    """Writes the merged weights into the same files as the base's, and their index.

    Memory holds the adapter and one tensor at a time. A package's GGUF base is read from the
    cache's copy, which its first use dequantized to fp32. Weights in 4 bits are dequantized here.

    Raises:
        ModelError: If the base's files lack a weight that the adapter changes.
    """
    updates = read_updates(source.adapter_dir, source.adapter_config())
    files = weights_of(source.base_folder)
    missing = updates.keys() - {each.name for tensors in files.values() for each in tensors}
    if missing:
        raise ModelError(
            f"{source.base_folder}: has no tensor named {sorted(missing)[0]}, which the adapter "
            f"changes ({len(missing)} of {len(updates)} are missing): its files name weights "
            "differently from the loaded model. Load and save it with save_pretrained first."
        )

    def change(each: Stored) -> torch.Tensor:
        weight = each.read()
        update = updates.get(each.name)
        return weight if update is None else update.added_to(weight)

    for file_name, tensors in files.items():
        write_shard(folder / file_name, tensors, source.dtype, change)
    write_index(folder, {file: [each.name for each in files[file]] for file in files})


def read_updates(adapter_dir: Path, config: LoraConfig) -> dict[str, Update]:
    """Returns the adapter's updates by weight; raises a ModelError if it holds anything else."""
    tensors = load_file(adapter_dir / ADAPTER_WEIGHTS)
    divisor = math.sqrt(config.r) if config.use_rslora else config.r
    updates = {}
    for name in [name for name in tensors if name.endswith(".lora_A.weight")]:
        layer = name.removesuffix(".lora_A.weight")
        other = f"{layer}.lora_B.weight"
        if other not in tensors:
            raise ModelError(f"{adapter_dir / ADAPTER_WEIGHTS}: {other} is missing")
        updates[f"{layer.removeprefix(_PREFIX)}.weight"] = Update(
            tensors.pop(name),
            tensors.pop(other),
            config.lora_alpha / divisor,
            bool(config.fan_in_fan_out),
        )
    if tensors:
        raise ModelError(
            f"{adapter_dir / ADAPTER_WEIGHTS}: {next(iter(tensors))}: only updates of linear "
            "layers can be merged"
        )
    return updates


def export_merged(source: ExportSource, out: Path, options: ExportOptions) -> dict[str, Any]:
    """Adds the adapter's update to the unquantized or dequantized base weights."""
    return make_artifact(source, out, options, "merged", write=_write, load=_load)


def _write(source: ExportSource, folder: Path) -> dict[str, Any]:
    write_merged_weights(source, folder)
    save_settings(source, folder)
    return {}


def write_merged_weights(source: ExportSource, folder: Path) -> None:
    """Writes the merged weights and the model's configuration and code."""
    merge(source, folder)
    source.model_config().save_pretrained(folder)
    if source.trust_remote_code:
        for file in source.base_folder.glob("*.py"):
            shutil.copyfile(file, folder / file.name)


def _load(source: ExportSource, folder: Path) -> Loaded:
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", trust_remote_code=source.trust_remote_code
    )
    return loaded_from(source, folder, model, model.dtype, "transformers")


def write_shard(
    path: Path,
    tensors: Sequence[Stored],
    dtype: torch.dtype,
    change: Callable[[Stored], torch.Tensor],
) -> None:
    """Writes a safetensors file with one tensor in memory at a time.

    The library's own writer needs all of a file's tensors, and copies them.

    Args:
        dtype: The written weights' dtype; other tensors keep theirs.
        change: Returns a tensor's content in the stored shape, in any dtype.

    Raises:
        ModelError: If `change` returns another shape.
    """
    widest_first = sorted(tensors, key=lambda each: (-_width(each, dtype), each.name))
    with path.open("wb") as file:
        header = _header(widest_first, dtype)
        file.write(len(header).to_bytes(8, "little") + header)
        for each in widest_first:
            content = change(each)
            if tuple(content.shape) != each.shape:
                raise ModelError(
                    f"{each.name}: has shape {tuple(content.shape)}; the base has {each.shape}"
                )
            content = content.to(dtype) if each.is_float else content
            file.write(content.contiguous().reshape(-1).view(torch.uint8).numpy().data)
            del content  # frees it before the next tensor exists


def write_index(folder: Path, files: Mapping[str, Sequence[str]]) -> None:
    """Writes the index of tensors to files, if there is more than one file."""
    if list(files) == [WEIGHTS]:
        return
    total = sum((folder / name).stat().st_size for name in files)
    weight_map = {name: file for file, names in files.items() for name in names}
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2)
    (folder / INDEX).write_text(text + "\n", encoding="utf-8")


def _header(tensors: Sequence[Stored], dtype: torch.dtype) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for each in tensors:
        end = start + each.numbers * _width(each, dtype)
        code = CODES[dtype] if each.is_float else each.code
        entries[each.name] = {"dtype": code, "shape": each.shape, "data_offsets": [start, end]}
        start = end
    header = json.dumps(entries, separators=(",", ":")).encode()
    return header + b" " * (-len(header) % 8)  # the format aligns the data to 8 bytes


def _width(each: Stored, dtype: torch.dtype) -> int:
    if each.is_float:
        return dtype.itemsize
    if each.code == "BOOL":
        return 1
    digits = each.code.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ").partition("_")[0]
    return int(digits) // 8
