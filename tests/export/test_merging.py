"""Merging shard by shard: the sum, the files' format, and memory."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from benchmarks.merging import peak_of_merge
from llmcausal.errors import ModelError
from llmcausal.export.merged import merge, write_shard
from llmcausal.export.source import files_of, stored

MEGABYTE = 2**20


def shard(base_dir: Path, size: str = "8KB") -> None:
    """Saves the base again in small files."""
    model = AutoModelForCausalLM.from_pretrained(base_dir)
    model.save_pretrained(base_dir, max_shard_size=size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sharded_base(source: Any, base_dir: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    single = load_file(base_dir / "model.safetensors")
    shard(base_dir)
    (base_dir / "model.safetensors").unlink()
    index = json.loads((base_dir / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert len(set(index["weight_map"].values())) > 3
    out = tmp_path / "out"
    out.mkdir()
    merge(replace(source, dtype=dtype), out)
    written = json.loads((out / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert written["weight_map"] == index["weight_map"]
    merged = {
        name: tensor
        for file in out.glob("*.safetensors")
        for name, tensor in load_file(file).items()
    }
    assert {tensor.dtype for tensor in merged.values()} == {dtype}
    peft = source.load().merge_and_unload().state_dict()
    changed = [name for name in single if not torch.equal(single[name], peft[name])]
    assert len(changed) == 4  # two layers, two target modules
    for name, tensor in merged.items():
        # Rounded once, from the fp32 sum.
        assert torch.equal(tensor, peft[name].to(dtype)) or name in changed
        assert torch.allclose(tensor.float(), peft[name], rtol=2**-8, atol=1e-5)


def test_written_files_are_what_the_library_reads(tmp_path: Path) -> None:
    tensors = {
        "ids": torch.arange(5),
        "mask": torch.tensor([True, False, True]),
        "empty": torch.zeros(0, 4),
        "scalar": torch.tensor(2.5),
        "weights": torch.randn(3, 7, dtype=torch.bfloat16),
    }
    save_file(tensors, tmp_path / "in.safetensors")
    read = stored(tmp_path, "in.safetensors", list(tensors))
    write_shard(tmp_path / "out.safetensors", read, torch.float32, lambda each: each.read())
    got = load_file(tmp_path / "out.safetensors")
    for name, tensor in tensors.items():
        assert torch.equal(got[name], tensor.float() if tensor.is_floating_point() else tensor)
        assert got[name].shape == tensor.shape
    assert got["weights"].dtype == torch.float32
    with safe_open(tmp_path / "out.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_changed_shape_is_refused(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(2, 3)}, tmp_path / "in.safetensors")
    read = stored(tmp_path, "in.safetensors", ["w"])
    with pytest.raises(ModelError, match=r"w: has shape \(3, 2\)"):
        write_shard(tmp_path / "o", read, torch.float32, lambda each: each.read().T)


def test_files_that_cannot_be_merged(source: Any, base_dir: Path, tmp_path: Path) -> None:
    weights = load_file(base_dir / "model.safetensors")
    renamed = {f"transformer.{name}": tensor for name, tensor in weights.items()}
    save_file(renamed, base_dir / "model.safetensors")
    with pytest.raises(ModelError, match=r"no tensor named model\.layers\.0.*4 of 4 are missing"):
        merge(source, tmp_path)
    (base_dir / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="save_pretrained"):
        merge(source, tmp_path)
    index = base_dir / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "../secret"}}), encoding="utf-8")
    with pytest.raises(ModelError, match="not a plain file name"):
        files_of(base_dir)
    index.write_text("[]", encoding="utf-8")
    with pytest.raises(ModelError, match="cannot be read"):
        files_of(base_dir)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize("files", [8, 1])
def test_peak_memory_stays_near_one_shard(
    files: int, source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 MiB of weights in tensors of 16 MiB; modules that load on first use count, too."""
    # Otherwise glibc raises its threshold after the first tensor and keeps freed memory, so the
    # peak has one or several more tensors by chance.
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(MEGABYTE))
    base, out = tmp_path / "large", tmp_path / "out"
    base.mkdir()
    out.mkdir()
    weight_map, adapter = {}, {}
    for number in range(files):
        names = [f"{number}.{i}" for i in range(16 // files)]
        save_file(
            {f"{name}.weight": torch.zeros(2048, 2048) for name in names}, base / f"{number}.st"
        )
        weight_map |= {f"{name}.weight": f"{number}.st" for name in names}
        for name in names:
            adapter[f"base_model.model.{name}.lora_A.weight"] = torch.ones(4, 2048)
            adapter[f"base_model.model.{name}.lora_B.weight"] = torch.ones(2048, 4)
    index = json.dumps({"weight_map": weight_map})
    (base / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    save_file(adapter, source.adapter_dir / "adapter_model.safetensors")
    del adapter
    before, peak = peak_of_merge(base, source.adapter_dir, out, "float32")
    assert peak - before < 64 * MEGABYTE
    config = source.adapter_config()
    with safe_open(out / "0.st", framework="pt") as file:
        assert float(file.get_tensor("0.1.weight")[7, 7]) == 4 * config.lora_alpha / config.r
