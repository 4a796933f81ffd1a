"""Trains for thousands of steps and prints how memory and checkpoints behave.

    python -m tests.torture.soak [--steps 2000] [--real] [--out FILE.json]

A tiny model takes few minutes for 2000 steps. With `--real` it is the demo's model on triplets of
many lengths, one a step, evaluated at the end: what grows with every new shape shows only there.

Resident memory is sampled every 10 steps; the slope is a least-squares line over the second half,
when every cache is warm, with a 95% interval from the means of ten stretches (neighbouring samples
are not independent). Stall is the share of the run that writing checkpoints takes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

EVERY = 10
STRETCHES = 10
CHECKPOINT_EVERY = 50  # the default


def resident_bytes() -> int:
    """Returns the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def slope(points: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Returns the least-squares slope in bytes a step, and half of its 95% interval."""
    from scipy import stats

    size = len(points) // STRETCHES
    stretches = [points[start : start + size] for start in range(0, STRETCHES * size, size)]
    steps = [sum(step for step, _ in each) / size for each in stretches]
    means = [sum(resident for _, resident in each) / size for each in stretches]
    line = stats.linregress(steps, means)
    return line.slope, stats.t.ppf(0.975, STRETCHES - 2) * line.stderr


REAL = (
    "train.batch_size=1", "data.builtin.test=60", "data.builtin.test_seen=0",
    "validation.batch_size=1", "evaluation.cache=false",
)  # fmt: skip


def soak(folder: Path, steps: int, real: bool = False) -> dict[str, Any]:
    """Trains for so many steps and returns what was measured."""
    from llmcausal.profile import load_config
    from llmcausal.train import callback, checkpoint
    from tests import program
    from tests.torture.__main__ import make_files
    from tests.torture.world import World

    world = World(folder)
    if not real:
        world.write_files(make_files)
    samples: list[tuple[int, int]] = []
    written: list[float] = []

    class Sampler(callback.Callback):
        def on_record(self, context: Any, record: Any) -> None:
            if record["step"] % EVERY == 0:
                samples.append((record["step"], resident_bytes()))

    write = checkpoint.Snapshot.write

    def timed(self: Any, target: Path) -> Path:
        started = time.perf_counter()
        try:
            return write(self, target)
        finally:
            written.append(time.perf_counter() - started)

    checkpoint.Snapshot.write = timed  # type: ignore[method-assign]
    globals()["Sampler"] = Sampler
    settings = [
        f"output_dir={folder}", f"train.max_steps={steps}", f"train.epochs={steps}",
        "validation.every_steps=50",
        f"checkpoint.every_steps={CHECKPOINT_EVERY}",
        "early_stopping.enabled=false",
        f'callbacks=["{__name__}:Sampler"]',
    ]  # fmt: skip
    if real:
        settings += [*REAL, f"data.builtin.train={min(steps, 1000)}"]
    profile = "demo-cpu" if real else str(world.profile)
    evaluated, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            if samples and samples[-1][0] == steps:  # the last step is done
                evaluated[0] = max(evaluated[0], resident_bytes())

    threading.Thread(target=watch, daemon=True).start()
    started = time.perf_counter()
    outcome = program.train(load_config(profile, settings), plain=True)
    seconds = time.perf_counter() - started
    ended.set()
    (early,) = [size for step, size in samples if step == 50]
    metrics = outcome.run_dir / "metrics.jsonl"
    half = [(step, size) for step, size in samples if step >= steps / 2]
    per_step, within = slope(half)
    rows = [json.loads(row) for row in metrics.read_text("utf-8").splitlines()]
    times = [row["seconds"] for row in rows if row["step"] > 0]
    return {
        "steps": outcome.steps,
        "seconds": seconds,
        "slope_bytes_per_step": per_step,
        "slope_within": within,
        "resident": samples,
        "first_mib": samples[0][1] / 2**20,
        "middle_mib": half[0][1] / 2**20,
        "last_mib": samples[-1][1] / 2**20,
        "most_over_step_50": max(size for step, size in samples if step >= 50) / early - 1,
        "evaluation_over_training": evaluated[0] / max(size for _, size in samples) - 1,
        "checkpoints": len(written),
        "median_step_ms": 1000 * statistics.median(times),
        "median_checkpoint_ms": 1000 * statistics.median(written),
        "longest_checkpoint_ms": 1000 * max(written),
        "stall_share": sum(written) / seconds,
        "metrics_bytes_per_step": metrics.stat().st_size / outcome.steps,
        "files": sorted(path.name for path in outcome.run_dir.iterdir()),
    }


def as_text(result: dict[str, Any], facts: dict[str, Any]) -> str:
    """Says what was measured."""
    return (
        f"{result['steps']} steps in {result['seconds']:.0f} s; {facts['date']}, "
        f"{facts['processor']}, torch {facts['packages']['torch']}\n"
        f"resident memory {result['first_mib']:.0f} MiB before the first step, "
        f"{result['middle_mib']:.0f} halfway, {result['last_mib']:.0f} at the end; slope of the "
        f"second half {result['slope_bytes_per_step']:+,.0f} +- {result['slope_within']:,.0f} "
        f"bytes a step (95%); most after step 50 against step 50 "
        f"{result['most_over_step_50']:+.1%}; most in the evaluation against training "
        f"{result['evaluation_over_training']:+.1%}\n"
        f"checkpoints every {CHECKPOINT_EVERY} steps of {result['median_step_ms']:.1f} ms: "
        f"{result['checkpoints']} of {result['median_checkpoint_ms']:.1f} ms (median; longest "
        f"{result['longest_checkpoint_ms']:.0f}) took {result['stall_share']:.2%} of the time\n"
        f"metrics.jsonl: {result['metrics_bytes_per_step']:.0f} bytes a step"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Soaks and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--real", action="store_true", help="the demo's model; many minutes")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    if given.steps < (least := 2 * STRETCHES * EVERY):
        parser.error(f"--steps {given.steps}: the slope needs at least {least}")
    from llmcausal.launched import settle_libraries

    settle_libraries()
    from llmcausal.assembly.run_directory import environment

    with tempfile.TemporaryDirectory(prefix="soak-") as folder, redirect_stdout(sys.stderr):
        result = soak(Path(folder), given.steps, given.real)
    print(as_text(result, facts := environment()))
    if given.out:
        given.out.write_text(json.dumps({**result, "environment": facts}, indent=2) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
