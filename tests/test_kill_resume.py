"""`kill -9` at random moments of a real process, then `llmcausal resume`: the same bits."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.torture.comparing import difference, rows, trained

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
MOMENTS = 3
STEPS = 20


@pytest.fixture
def profile(tmp_path: Path, tiny_llama: Any, chatml_tokenizer: Any) -> Path:
    """Wide enough for NF4 and for 8-bit optimizer states, which start at 4096 values.

    Without dropout, where layers are computed whole, and in bf16 where the processor has it:
    `tests.torture` has fp32 and dropout.
    """
    from llmcausal.model.device import has_bf16_instructions

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
        precision = "{"bf16" if has_bf16_instructions() else "fp32"}"
        [lora]
        dropout = 0.0
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


def test_killed_at_random_moments(profile: Path, tmp_path: Path) -> None:
    done = run("train", profile, "--output-dir", tmp_path / "straight")
    assert done.returncode == 0, done.stderr
    straight = tmp_path / "straight" / "killed"
    expected = trained(straight / f"checkpoint-{STEPS}")
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
        assert difference(run_dir, straight, STEPS) == ""
    print(f"killed after steps {reached} of {STEPS}")
