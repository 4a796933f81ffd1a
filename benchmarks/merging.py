"""Peak memory of merging an adapter into a made-up base of 2 GB, against its largest file.

`python -m benchmarks.merging` prints the figures and exits with 1 above 2.5 times that file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.result import header, write

WIDTH = 4096
SHARDS = 4
IN_A_SHARD = 16
RANK = 16
LIMIT = 2.5
_MERGE = """
import sys
from pathlib import Path
from types import SimpleNamespace
import torch
from peft import PeftConfig
from llmcausal.export.merged import merge

def memory(field):
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

base, adapter, out = map(Path, sys.argv[2:])
source = SimpleNamespace(
    adapter_dir=adapter, base_folder=base, dtype=getattr(torch, sys.argv[1]),
    adapter_config=lambda: PeftConfig.from_pretrained(adapter),
)
before = memory("VmRSS")
merge(source, out)
print(before, memory("VmHWM"))
"""


def make_base(folder: Path) -> int:
    """Writes random bf16 shards and their index; returns the bytes of the largest."""
    import torch
    from safetensors.torch import save_file

    weight_map = {}
    largest = 0
    for number in range(SHARDS):
        name = f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors"
        tensors = {
            f"{number}.{place}.weight": torch.randn(WIDTH, WIDTH).bfloat16()
            for place in range(IN_A_SHARD)
        }
        save_file(tensors, folder / name)
        weight_map |= dict.fromkeys(tensors, name)
        largest = max(largest, (folder / name).stat().st_size)
    index = json.dumps({"weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(index, "utf-8")
    return largest


def make_adapter(folder: Path) -> None:
    """Writes an adapter that changes every weight."""
    import torch
    from peft import LoraConfig
    from safetensors.torch import save_file

    LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["x"]).save_pretrained(str(folder))
    tensors = {}
    for number in range(SHARDS):
        for place in range(IN_A_SHARD):
            name = f"base_model.model.{number}.{place}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(RANK, WIDTH)
            tensors[f"{name}.lora_B.weight"] = torch.randn(WIDTH, RANK)
    save_file(tensors, folder / "adapter_model.safetensors")


def peak_of_merge(base: Path, adapter: Path, out: Path, dtype: str) -> tuple[int, int]:
    """Returns the resident bytes before a merge and at its peak.

    In a process of its own: what was freed before would blur the peak.

    Args:
        base: Folder of the base's files.
        adapter: Folder of the adapter.
        out: Folder for the merged files; exists.
        dtype: Of what is written, as torch names it.
    """
    command = [sys.executable, "-W", "ignore", "-c", _MERGE, dtype, *map(str, (base, adapter, out))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before, peak = map(int, done.stdout.split())
    return before, peak


def measure(folder: Path) -> dict[str, Any]:
    """Makes base and adapter, and merges them."""
    base, adapter, out = (folder / name for name in ("base", "adapter", "out"))
    for each in (base, adapter, out):
        each.mkdir()
    largest = make_base(base)
    make_adapter(adapter)
    before, peak = peak_of_merge(base, adapter, out, "bfloat16")
    return {
        "base_bytes": sum(file.stat().st_size for file in base.glob("*.safetensors")),
        "largest_shard_bytes": largest,
        "before_bytes": before,
        "peak_bytes": peak,
        "peak_of_largest_shard": peak / largest,
        "added_of_largest_shard": (peak - before) / largest,
    }


def main() -> int:
    """Measures, prints, and keeps the result."""
    with tempfile.TemporaryDirectory(prefix="merging-") as folder:
        result = measure(Path(folder))
    result |= header("merging", {})
    facts = result["environment"]
    mib = {name: value / 2**20 for name, value in result.items() if name.endswith("_bytes")}
    print(
        f"base {mib['base_bytes']:,.0f} MiB in {SHARDS} files, "
        f"the largest {mib['largest_shard_bytes']:,.0f} MiB\n"
        f"peak resident memory {mib['peak_bytes']:,.0f} MiB: "
        f"{result['peak_of_largest_shard']:.2f} times the largest file, of which the imported "
        f"libraries were {mib['before_bytes']:,.0f} MiB before the merge\n"
        f"{facts['date']}, {facts['processor']}, torch {facts['packages']['torch']}"
    )
    write(result)
    return int(result["peak_of_largest_shard"] > LIMIT)


if __name__ == "__main__":
    raise SystemExit(main())
