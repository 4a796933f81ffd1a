"""What a run leaves behind, so that two runs can be compared to the bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WEIGHTS = ("adapter_model.safetensors", "projection.safetensors")
_OF_THE_CLOCK = ("seconds", "memory", "tokens_per_second")


def rows(run_dir: Path) -> list[dict[str, Any]]:
    """Reads metrics.jsonl without what depends on the clock or the machine."""
    return [
        {key: value for key, value in json.loads(line).items() if not key.startswith(_OF_THE_CLOCK)}
        for line in (run_dir / "metrics.jsonl").read_text().splitlines()
    ]


def trained(checkpoint: Path) -> dict[str, Any]:
    """Adapter and projection, if any, as bytes; optimizer, schedule, position, random states."""
    import torch

    state = torch.load(checkpoint / "training_state.pt", weights_only=True)
    state["state"].pop("train_seconds")
    state["callbacks"] = [each for each in state["callbacks"] if not each[0].endswith(":Tracking")]
    for name in WEIGHTS:
        if (checkpoint / name).is_file():
            state[name] = (checkpoint / name).read_bytes()
    return flat(state)


def flat(value: Any, where: str = "") -> dict[str, Any]:
    """Returns every leaf by its path; tensors as type, shape and bytes."""
    import torch

    if isinstance(value, dict):
        return {k: v for key in value for k, v in flat(value[key], f"{where}.{key}").items()}
    if isinstance(value, (list, tuple)):
        pairs = (flat(item, f"{where}[{i}]") for i, item in enumerate(value))
        return {key: item for pair in pairs for key, item in pair.items()}
    if isinstance(value, torch.Tensor):
        return {where: (str(value.dtype), tuple(value.shape), value.numpy().tobytes())}
    return {where: value}


def difference(run_dir: Path, straight: Path, steps: int) -> str:
    """Names the first thing in which a run differs from the undisturbed one; "" if nothing."""
    for name in (f"checkpoint-{steps}", "best"):
        if not (run_dir / name).is_dir():
            return f"{name} is missing"
        ours, theirs = trained(run_dir / name), trained(straight / name)
        for key in sorted(ours.keys() | theirs.keys()):
            if ours.get(key) != theirs.get(key):
                return f"{name}: {key} differs"
    ours_rows, theirs_rows = rows(run_dir), rows(straight)
    for ours_row, theirs_row in zip(ours_rows, theirs_rows, strict=False):
        for key in sorted(ours_row.keys() | theirs_row.keys()):
            if ours_row.get(key) != theirs_row.get(key):
                return f"metrics.jsonl: step {theirs_row.get('step')}: {key} differs"
    if len(ours_rows) != len(theirs_rows):
        return f"metrics.jsonl: {len(ours_rows)} rows instead of {len(theirs_rows)}"
    left = {path.name for path in run_dir.iterdir()} - {".lock"}
    expected = {path.name for path in straight.iterdir()} - {".lock"}
    return f"files: {sorted(left ^ expected)}" if left != expected else ""
