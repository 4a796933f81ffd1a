"""Adds an adapter's update to the base weights, shard by shard."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import load_file

from llmcausal.errors import ModelError
from llmcausal.export.shards import Stored, files_of, stored, write_index, write_shard
from llmcausal.export.source import ExportSource
from llmcausal.model.adapter_files import ADAPTER_WEIGHTS

_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Update:
    """What LoRA adds to one weight: `scale * b @ a`.

    Attributes:
        a: (rank, in).
        b: (out, rank).
        scale: alpha / rank, or alpha / sqrt(rank).
        transposed: The base keeps this weight as (in, out).
    """

    a: torch.Tensor
    b: torch.Tensor
    scale: float
    transposed: bool

    def added_to(self, weight: torch.Tensor) -> torch.Tensor:
        """Returns the sum in fp32, so that it is rounded once, when it is written."""
        a, b = self.a.float(), self.b.float()
        first, second = (a.T, b.T) if self.transposed else (b, a)
        return torch.addmm(weight.float(), first, second, alpha=self.scale)


def merge(source: ExportSource, folder: Path) -> None:
    """Writes the merged weights with the base's own division into files, and their index.

    One tensor is in memory at a time, beside the adapter. A base that comes as GGUF inside a
    package is read from its copy in the cache, which was dequantized to fp32 when first used.

    Raises:
        ModelError: If a weight that the adapter changes is not in the base's files.
    """
    updates = read_updates(source.adapter_dir, source.adapter_config())
    files = files_of(source.base_folder)
    missing = updates.keys() - {name for names in files.values() for name in names}
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

    for file_name, names in files.items():
        tensors = stored(source.base_folder, file_name, names)
        write_shard(folder / file_name, tensors, source.dtype, change)
    write_index(folder, files)


def read_updates(adapter_dir: Path, config: LoraConfig) -> dict[str, Update]:
    """Returns the update of each weight that the adapter changes, by the weight's name.

    Raises:
        ModelError: If the adapter holds anything else.
    """
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
