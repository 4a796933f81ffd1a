"""`kill -9` at random moments of a real process, then `llmcausal resume`: the same bits."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
MOMENTS = 5
STEPS = 20


@pytest.fixture
def profile(tmp_path: Path, tiny_llama: Any, chatml_tokenizer: Any) -> Path:
    """Wide enough for NF4 and for 8-bit optimizer states, which start at 4096 values."""
    model = tmp_path / "model"
    tiny_llama(
        hidden_size=256, intermediate_size=512, max_position_embeddings=2048
    ).save_pretrained(model)
    chatml_tokenizer.save_pretrained(model)
    path = tmp_path / "killed.toml"
    path.write_text(f"""
        [model]
        name = "{model}"
        device = "cpu"
        [lora]
        dropout = 0.1
        [data.builtin]
        train = 40
        validation = 4
        [train]
        max_steps = {STEPS}
        epochs = 3
        batch_size = 2
        accumulation_steps = 2
        [validation]
        every_steps = 5
        [checkpoint]
        every_steps = 3
        [evaluation]
        at_end = false
    """)
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "llmcausal", *map(str, arguments), "--plain"]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False)


def rows(run_dir: Path) -> list[dict[str, Any]]:
    untimed = ("seconds", "memory")
    return [
        {key: value for key, value in json.loads(line).items() if not key.startswith(untimed)}
        for line in (run_dir / "metrics.jsonl").read_text().splitlines()
    ]


def trained(checkpoint: Path) -> dict[str, Any]:
    """Adapter and projection as bytes; optimizer, schedule, position and random states."""
    import torch

    state = torch.load(checkpoint / "training_state.pt", weights_only=True)
    state["state"].pop("train_seconds")
    for name in ("adapter_model.safetensors", "projection.safetensors"):
        state[name] = (checkpoint / name).read_bytes()
    return state


def flat(value: Any, where: str = "") -> dict[str, Any]:
    import torch

    if isinstance(value, dict):
        return {k: v for key in value for k, v in flat(value[key], f"{where}.{key}").items()}
    if isinstance(value, (list, tuple)):
        pairs = (flat(item, f"{where}[{i}]") for i, item in enumerate(value))
        return {key: item for pair in pairs for key, item in pair.items()}
    if isinstance(value, torch.Tensor):
        return {where: (str(value.dtype), tuple(value.shape), value.numpy().tobytes())}
    return {where: value}


def test_killed_at_random_moments(profile: Path, tmp_path: Path) -> None:
    done = run("train", profile, "--output-dir", tmp_path / "straight")
    assert done.returncode == 0, done.stderr
    straight = tmp_path / "straight" / "killed"
    expected = flat(trained(straight / f"checkpoint-{STEPS}"))
    assert any(value[0] == "torch.uint8" for key, value in expected.items() if "state1" in key)
    assert [row["step"] for row in rows(straight)] == list(range(STEPS + 1))
    first = (straight / "config.toml").stat().st_mtime
    duration = (straight / f"checkpoint-{STEPS}" / "manifest.json").stat().st_mtime - first
    moments = random.Random(20261122)
    reached = []
    for number in range(MOMENTS):
        folder = tmp_path / f"killed-{number}"
        process = subprocess.Popen(
            command("train", profile, "--output-dir", folder),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        run_dir = folder / "killed"
        while not (run_dir / "config.toml").is_file():
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(moments.uniform(0.3, 1.0) * duration)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        metrics = run_dir / "metrics.jsonl"
        reached.append(len(metrics.read_bytes().splitlines()) - 1 if metrics.exists() else None)
        resumed = run("resume", run_dir)
        assert resumed.returncode == 0, resumed.stdout + resumed.stderr
        assert flat(trained(run_dir / f"checkpoint-{STEPS}")) == expected
        assert flat(trained(run_dir / "best")) == flat(trained(straight / "best"))
        assert rows(run_dir) == rows(straight)
        left = {path.name for path in run_dir.iterdir()} - {".lock"}
        assert left == {path.name for path in straight.iterdir()} - {".lock"}
    print(f"killed after steps {reached} of {STEPS}")
