"""Trains a tiny model for thousands of steps and prints how memory and checkpoints behave.

    python -m tests.torture.soak [--steps 2000] [--out FILE.json]

Resident memory is sampled every 20 steps; the slope is a least-squares line over the second half,
when every cache is warm. Stall is the share of the run that writing checkpoints takes.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EVERY = 20


def resident_bytes() -> int:
    """Returns the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def slope(points: Sequence[tuple[int, int]]) -> float:
    """Returns the least-squares slope, in bytes a step."""
    count = len(points)
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread


def soak(folder: Path, steps: int) -> dict[str, Any]:
    """Trains for so many steps and returns what was measured."""
    from llmcausal import assembly
    from llmcausal.profile import load_config
    from llmcausal.train import callback, snapshot
    from tests.torture.__main__ import make_files
    from tests.torture.world import World

    world = World(folder)
    world.write_files(make_files)
    samples: list[tuple[int, int]] = []
    written: list[float] = []

    class Sampler(callback.Callback):
        def on_record(self, context: Any, record: Any) -> None:
            if record["step"] % EVERY == 0:
                samples.append((record["step"], resident_bytes()))

    write = snapshot.Snapshot.write

    def timed(self: Any, target: Path) -> Path:
        started = time.perf_counter()
        try:
            return write(self, target)
        finally:
            written.append(time.perf_counter() - started)

    snapshot.Snapshot.write = timed  # type: ignore[method-assign]
    globals()["Sampler"] = Sampler
    settings = [
        f"output_dir={folder}", f"train.max_steps={steps}", f"train.epochs={steps}",
        "validation.every_steps=50",
        "checkpoint.every_steps=50",
        "early_stopping.enabled=false",
        f'callbacks=["{__name__}:Sampler"]',
    ]  # fmt: skip
    started = time.perf_counter()
    outcome = assembly.train(load_config(str(world.profile), settings), plain=True)
    seconds = time.perf_counter() - started
    metrics = outcome.run_dir / "metrics.jsonl"
    half = [(step, size) for step, size in samples if step >= steps / 2]
    return {
        "steps": outcome.steps,
        "seconds": seconds,
        "slope_bytes_per_step": slope(half),
        "first_mib": samples[0][1] / 2**20,
        "middle_mib": half[0][1] / 2**20,
        "last_mib": samples[-1][1] / 2**20,
        "checkpoints": len(written),
        "stall_share": sum(written) / seconds,
        "metrics_bytes_per_step": metrics.stat().st_size / outcome.steps,
        "files": sorted(path.name for path in outcome.run_dir.iterdir()),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Soaks and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    from llmcausal.assembly.run_directory import environment

    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        result = soak(Path(folder), given.steps)
    facts = environment()
    print(f"{result['steps']} steps in {result['seconds']:.0f} s; {facts['date']}, "
          f"{facts['processor']}, torch {facts['packages']['torch']}\n"
          f"resident memory {result['first_mib']:.0f} MiB at the start, {result['middle_mib']:.0f} "
          f"halfway, {result['last_mib']:.0f} at the end; slope of the second half "
          f"{result['slope_bytes_per_step']:+.0f} bytes a step\n"
          f"{result['checkpoints']} checkpoints took {result['stall_share']:.2%} of the time; "
          f"metrics.jsonl {result['metrics_bytes_per_step']:.0f} bytes a step")  # fmt: skip
    if given.out:
        given.out.write_text(json.dumps({**result, "environment": facts}, indent=2) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
