"""Variants of the step in processes of their own, asked in turn."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, Self

from llmcausal.launched import LIBRARIES

REPOSITORY = Path(__file__).parents[1]
ENVIRONMENTS = (
    Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "llmcausal-benchmarks"
)
LOSS_TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2}
GRADIENT_TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}
"""Of the loss itself and of the gradient's norm, relative: what the precision rounds to."""
MEMORY_GOAL = 0.5
"""Of the fastest other program's peak."""
PEAKS = ("weights_bytes", "allocated_peak_bytes")
"""What only the profiled run answers."""


@dataclass(frozen=True)
class Variant:
    """A way to compute the step.

    Attributes:
        name: In tables.
        module: Program under `benchmarks.peers`.
        options: Passed to it.
        environment: Folder name of its virtual environment; None is this one.
        same_loss: Whether it claims the loss of the others, so that it is checked and ranked.
        note: What a reader must know of it.
        variables: Of its process' environment.
    """

    name: str
    module: str
    options: dict[str, Any] = field(default_factory=dict)
    environment: str | None = None
    same_loss: bool = True
    note: str = ""
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def ours(self) -> bool:
        """Whether it is the project's own."""
        return self.module == "ours"

    @property
    def python(self) -> str:
        """The interpreter that runs it."""
        if self.environment is None:
            return sys.executable
        return str(ENVIRONMENTS / self.environment / "bin" / "python")


class Worker:
    """The process of one variant; `failure` says in one line why there is none."""

    def __init__(self, variant: Variant, folder: Path) -> None:
        self.variant = variant
        self.failure: str | None = None
        self.packages: dict[str, str] = {}
        self._errors = (folder / f"{variant.name.replace('/', '-')}.log").open("w+")
        if not Path(variant.python).exists():
            self.failure = "not installed: python -m benchmarks.peers.setup"
            return
        command = [variant.python, "-m", f"benchmarks.peers.{variant.module}", str(folder),
                   json.dumps(variant.options)]  # fmt: skip
        quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        if variant.ours:
            quiet |= LIBRARIES  # as the command line sets them
        self._process = subprocess.Popen(
            command, cwd=REPOSITORY, env={**os.environ, **quiet, **variant.variables}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
        )  # fmt: skip
        self.packages = self._answer().get("packages", {})

    def ask(self, case: str, *, profiled: bool, most: int) -> dict[str, Any]:
        """Runs a case until it is steady; returns what it answers, or nothing if it failed."""
        if self.failure is not None:
            return {}
        assert self._process.stdin is not None
        asked = {"case": case, "profiled": profiled, "most": most}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        code = self._process.wait()
        if code < 0:  # nothing of its own to say; 9 is what the kernel sends when memory runs out
            self.failure = f"killed by signal {-code}"
            return {}
        self._errors.seek(0)
        lines = [each.strip() for each in self._errors if each.strip()]
        self.failure = lines[-1][:300] if lines else f"ended with {code}"
        return {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "_process"):
            self._process.communicate()
        self._errors.close()


def measure_case(
    workers: Sequence[Worker], case: dict[str, Any], name: str, most: int, precision: str
) -> list[dict[str, Any]]:
    """Runs a case through all workers in turn; returns a row for each.

    Args:
        workers: Started.
        case: From the workload.
        name: Its name there.
        most: Runs of a worker beside the first, which torch's profiler watches; fewer where the
            last three agree to 5%. With none, the first is all, and counts.
        precision: Decides how near losses and gradients must be.
    """
    answers = {
        worker.variant.name: worker.ask(name, profiled=True, most=most) for worker in workers
    }
    rows = []
    for worker in workers:
        variant = worker.variant
        shape = {key: value for key, value in case.items() if key != "triplets"}
        row: dict[str, Any] = {
            "variant": variant.name, "ours": variant.ours, "case": name, **shape,
            "packages": worker.packages, "note": variant.note,
        }  # fmt: skip
        if worker.failure is not None:
            rows.append({**row, "failed": worker.failure, "ranked": False})
            continue
        last = answers[variant.name]
        samples = [seconds / case["count"] for seconds in last["samples"]]
        busy = [seconds / case["count"] for seconds in last["cpu_samples"]]
        rows.append(
            {
                **row,
                "seconds_per_triplet": statistics.median(samples),
                "samples": samples,
                "cpu_seconds_per_triplet": statistics.median(busy),
                "cpu_samples": busy,
                "tokens": last["tokens"],
                "seconds_per_token": statistics.median(samples) * case["count"] / last["tokens"],
                "loss": sum(last["losses"]),
                "losses": last["losses"],
                "gradient_norm": last["gradient_norm"],
                **{key: last[key] for key in (*PEAKS, "peak_rss_bytes", "runs", "steady")},
                "ranked": variant.same_loss,
            }
        )
    check_losses(rows, precision)
    return rows


def check_losses(rows: Sequence[dict[str, Any]], precision: str) -> None:
    """Takes rows out of the ranking whose loss or gradient is not the reference's.

    The reference is the first ranked row that is not ours; without one, the first ranked.
    """
    ranked = [row for row in rows if row["ranked"]]
    if not ranked:
        return
    reference = next((row for row in ranked if not row["ours"]), ranked[0])
    for row in ranked:
        row["loss_difference"] = abs(row["loss"] / reference["loss"] - 1)
        row["gradient_difference"] = abs(row["gradient_norm"] / reference["gradient_norm"] - 1)
        if row["loss_difference"] > LOSS_TOLERANCE[precision]:
            row["ranked"], row["reason"] = False, f"loss differs by {row['loss_difference']:.1e}"
        elif row["gradient_difference"] > GRADIENT_TOLERANCE[precision]:
            reason = f"gradient norm differs by {row['gradient_difference']:.1e}"
            row["ranked"], row["reason"] = False, reason


def compare(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sets our rows of a case against the fastest and the leanest of the others.

    Returns:
        Nothing if one of the sides has no ranked row; else, for our `fastest` variant, our
        fastest `within` `MEMORY_GOAL` of the fastest other's peak (None if there is none) and our
        `leanest`: name, times as fast as the fastest other, and part of its peak memory. Also
        the leanest's part of the leanest other's peak, with and without the weights.
    """
    ours = [row for row in rows if row["ranked"] and row["ours"]]
    others = [row for row in rows if row["ranked"] and not row["ours"]]
    if not ours or not others:
        return {}
    seconds, peak = itemgetter("seconds_per_triplet"), itemgetter("allocated_peak_bytes")
    other, lean_other, lean = min(others, key=seconds), min(others, key=peak), min(ours, key=peak)
    within = [row for row in ours if peak(row) <= MEMORY_GOAL * peak(other)]

    def against(row: dict[str, Any]) -> dict[str, Any]:
        return {
            "variant": row["variant"],
            "times_faster": seconds(other) / seconds(row),
            "cpu_times_faster":
                other["cpu_seconds_per_triplet"] / row["cpu_seconds_per_triplet"],
            "memory": peak(row) / peak(other),
            "resident_memory": row["peak_rss_bytes"] / other["peak_rss_bytes"],
        }  # fmt: skip

    return {
        "case": other["case"], "length": other["length"], "share": other["share"],
        "other": other["variant"],
        "weights": other["weights_bytes"] / peak(other),
        "fastest": against(min(ours, key=seconds)),
        "within": against(min(within, key=seconds)) if within else None,
        "leanest": against(lean),
        "leanest_other": lean_other["variant"],
        "memory_of_leanest": peak(lean) / peak(lean_other),
        # The weights are the same on both sides; this is what the step adds to them.
        "memory_of_leanest_beyond_weights":
            (peak(lean) - lean["weights_bytes"]) / (peak(lean_other) - lean_other["weights_bytes"]),
    }  # fmt: skip
