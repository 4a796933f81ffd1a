"""What every benchmark's result says of its run: machine, versions, date, cores, seeds."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"


def header(name: str, seeds: dict[str, int], beside: str = "") -> dict[str, Any]:
    """Describes the run that a result is of.

    Args:
        name: Of the benchmark: `python -m benchmarks NAME`.
        seeds: By what they decide.
        beside: Other work on the machine in the meantime.
    """
    from llmcausal.assembly.run_directory import environment

    return {
        "name": name,
        "command": shlex.join(["python", "-m", "benchmarks", name, *sys.argv[1:]]),
        "environment": environment(),
        "cores": sorted(os.sched_getaffinity(0)),
        "load_average_at_start": os.getloadavg(),
        "beside": beside or os.environ.get("BENCHMARKS_BESIDE", ""),
        "seeds": seeds,
    }


def write(result: dict[str, Any], out: Path | None = None) -> None:
    """Writes a result to `out`, or where the page of all results reads it."""
    out = out or FOLDER / f"{result['name']}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(f"written to {out}")
