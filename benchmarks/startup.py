"""How soon programs answer: every `--help`, `doctor`, and from `train` to the first step.

    python -m benchmarks.startup [--rounds 3] [--train-rounds 2] [--only-ours]

Wall time of whole processes, as a user starts them. Other programs come from their own virtual
environments (`python -m benchmarks.peers.setup`).
`train` is the demo with 64 triplets: until its first step stands in metrics.jsonl, the model loaded
and measured in validation before. The exit code is 1 if the median of a `--help` of ours takes more
than half a second.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.result import header, write
from benchmarks.step_workers import ENVIRONMENTS
from llmcausal.cli import COMMANDS

LIMIT_SECONDS = 0.5
TRAIN_LIMIT_SECONDS = 600
OURS = Path(sys.executable).with_name("llmcausal")
PEERS = {
    "trl": ENVIRONMENTS / "trl" / "bin" / "trl",
    "litgpt": ENVIRONMENTS / "litgpt" / "bin" / "litgpt",
    "llamafactory-cli": ENVIRONMENTS / "llamafactory" / "bin" / "llamafactory-cli",
    "tune": ENVIRONMENTS / "torchtune" / "bin" / "tune",
    "axolotl": ENVIRONMENTS / "axolotl" / "bin" / "axolotl",
}
HELP_OF = {"llamafactory-cli": "help"}
"""Programs whose help is not `--help`."""
SMALL = {
    "data.builtin.train": 64, "data.builtin.validation": 16, "data.builtin.test": 16,
    "data.builtin.test_seen": 8, "train.max_steps": 1,
}  # fmt: skip


def timed(command: list[str], rounds: int, codes: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """Runs a command as often as asked; returns its samples, or why there are none."""
    shown = " ".join([Path(command[0]).name, *command[1:]])
    samples = []
    for _ in range(rounds):
        started = time.perf_counter()
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        except (OSError, subprocess.TimeoutExpired) as error:
            installed = Path(command[0]).exists()
            return {"command": shown, "failed": str(error)[:300] if installed else "not installed"}
        if done.returncode not in codes:
            lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
            return {"command": shown, "failed": lines[-1][:300]}
        samples.append(time.perf_counter() - started)
    return {"command": shown, "samples": samples}


def first_step(rounds: int) -> dict[str, Any]:
    """Times the demo until metrics.jsonl has a step, then ends it."""
    settings = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]
    shown = "train to the first step (demo-cpu)"
    samples = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="startup-") as name:
            command = [str(OURS), "train", "demo-cpu", "--plain", "--output-dir", name, *settings]
            started = time.perf_counter()
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            try:
                while not any(file.stat().st_size for file in Path(name).rglob("metrics.jsonl")):
                    if process.poll() is not None:
                        assert process.stderr is not None
                        lines = process.stderr.read().decode().strip().splitlines()
                        return {"command": shown, "failed": (lines or ["it ended before"])[-1]}
                    if time.perf_counter() - started > TRAIN_LIMIT_SECONDS:
                        return {"command": shown, "failed": f"{TRAIN_LIMIT_SECONDS} s went by"}
                    time.sleep(0.02)
                samples.append(time.perf_counter() - started)
            finally:
                process.kill()
                process.wait()
    return {"command": shown, "samples": samples}


def main() -> int:
    """Measures, prints and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--train-rounds", type=int, default=2)
    parser.add_argument("--only-ours", action="store_true")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    result = header("startup", {})
    rows = result["rows"] = []

    def add(row: dict[str, Any]) -> None:
        rows.append(row)
        found = f"{statistics.median(row['samples']):.3f} s" if "samples" in row else row["failed"]
        print(f"{row['command']:44}{found}", flush=True)

    for name in ("", *COMMANDS.entries):
        add(timed([str(OURS), *([name] if name else []), "--help"], arguments.rounds))
    slowest = max((statistics.median(r["samples"]) for r in rows if "samples" in r), default=0.0)
    add(timed([str(OURS), "doctor"], arguments.rounds, codes=(0, 1, 2, 3)))
    if not arguments.only_ours:
        for name, program in PEERS.items():
            add(timed([str(program), HELP_OF.get(name, "--help")], arguments.rounds))
    if arguments.train_rounds:
        add(first_step(arguments.train_rounds))
    write(result, arguments.out)
    return int(slowest > LIMIT_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
