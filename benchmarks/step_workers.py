"""Variants of the step in processes of their own, asked in turn."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

REPOSITORY = Path(__file__).parents[1]
ENVIRONMENTS = (
    Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "llmcausal-benchmarks"
)
LOSS_TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 1e-3


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
    """

    name: str
    module: str
    options: dict[str, Any] = field(default_factory=dict)
    environment: str | None = None
    same_loss: bool = True
    note: str = ""

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
        self._process = subprocess.Popen(
            command, cwd=REPOSITORY, env={**os.environ, **quiet}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
        )  # fmt: skip
        self.packages = self._answer().get("packages", {})

    def ask(self, case: str, *, profiled: bool = False) -> dict[str, Any]:
        """Runs a case once; returns the worker's answer, or nothing if it failed."""
        if self.failure is not None:
            return {}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"case": case, "profiled": profiled}) + "\n")
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
    workers: Sequence[Worker], case: dict[str, Any], name: str, rounds: int
) -> list[dict[str, Any]]:
    """Runs a case through all workers in turn; returns a row for each.

    Args:
        workers: Started.
        case: From the workload.
        name: Its name there.
        rounds: Timed rounds, after a profiled one that is not timed.
    """
    peaks = {worker.variant.name: worker.ask(name, profiled=True) for worker in workers}
    answers: dict[str, list[dict[str, Any]]] = {worker.variant.name: [] for worker in workers}
    for _ in range(rounds):
        for worker in workers:
            answers[worker.variant.name].append(worker.ask(name))
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
        given = answers[variant.name]
        last = given[-1]
        samples = [sum(each["seconds"]) / case["count"] for each in given]
        busy = [sum(each["cpu_seconds"]) / case["count"] for each in given]
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
                "peak_rss_bytes": max(each["peak_rss_bytes"] for each in given),
                **peaks[variant.name],
                "ranked": variant.same_loss,
            }
        )
    check_losses(rows)
    return rows


def check_losses(rows: Sequence[dict[str, Any]]) -> None:
    """Takes rows out of the ranking whose loss or gradient is not the reference's.

    The reference is the first ranked row that is not ours; without one, the first ranked.
    """
    ranked = [row for row in rows if row["ranked"]]
    if not ranked:
        return
    reference = next((row for row in ranked if not row["ours"]), ranked[0])
    for row in ranked:
        row["loss_difference"] = abs(row["loss"] - reference["loss"]) / row["count"]
        row["gradient_difference"] = abs(row["gradient_norm"] / reference["gradient_norm"] - 1)
        if row["loss_difference"] > LOSS_TOLERANCE:
            row["ranked"], row["reason"] = False, f"loss differs by {row['loss_difference']:.1e}"
        elif row["gradient_difference"] > GRADIENT_TOLERANCE:
            reason = f"gradient norm differs by {row['gradient_difference']:.1e}"
            row["ranked"], row["reason"] = False, reason


def compare(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sets our fastest and leanest row of a case against the best of the others.

    Returns:
        Nothing if one of the sides has no ranked row; else names, `times_faster`, and shares of
        peak memory: ours of theirs, for the fastest on each side and the leanest on each side.
    """
    ours = [row for row in rows if row["ranked"] and row["ours"]]
    others = [row for row in rows if row["ranked"] and not row["ours"]]
    if not ours or not others:
        return {}

    def least(side: list[dict[str, Any]], key: str) -> dict[str, Any]:
        return min(side, key=lambda row: row[key])

    fast, fast_peer = least(ours, "seconds_per_triplet"), least(others, "seconds_per_triplet")
    lean, lean_peer = (least(side, "allocated_peak_bytes") for side in (ours, others))
    return {
        "case": fast["case"], "length": fast["length"], "share": fast["share"],
        "fastest_ours": fast["variant"], "fastest_peer": fast_peer["variant"],
        "times_faster": fast_peer["seconds_per_triplet"] / fast["seconds_per_triplet"],
        "cpu_times_faster": fast_peer["cpu_seconds_per_triplet"] / fast["cpu_seconds_per_triplet"],
        "memory_of_fastest": fast["allocated_peak_bytes"] / fast_peer["allocated_peak_bytes"],
        "leanest_ours": lean["variant"], "leanest_peer": lean_peer["variant"],
        "memory_of_leanest": lean["allocated_peak_bytes"] / lean_peer["allocated_peak_bytes"],
        # The weights are the same on both sides; this is what the step adds to them.
        "memory_beyond_weights_of_leanest":
            _beyond_weights(lean) / _beyond_weights(lean_peer),
        "memory_of_leanest_to_fastest_peer":
            lean["allocated_peak_bytes"] / fast_peer["allocated_peak_bytes"],
        "rss_of_fastest": fast["peak_rss_bytes"] / fast_peer["peak_rss_bytes"],
        "leanest_times_faster_than_fastest_peer":
            fast_peer["seconds_per_triplet"] / lean["seconds_per_triplet"],
    }  # fmt: skip


def _beyond_weights(row: dict[str, Any]) -> int:
    beyond: int = row["allocated_peak_bytes"] - row["weights_bytes"]
    return beyond
