"""Times every --help as a user would start it: median of ten, in seconds of wall time."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from llmcausal.cli import COMMANDS

ROUNDS = 10
LIMIT_SECONDS = 0.5


def median_seconds(arguments: list[str]) -> float:
    program = str(Path(sys.executable).with_name("llmcausal"))
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        subprocess.run([program, *arguments, "--help"], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main() -> int:
    medians = {name: median_seconds([name] if name else []) for name in ("", *COMMANDS.entries)}
    for name, seconds in medians.items():
        print(f"llmcausal {name:<7} --help  {seconds:.3f} s")
    return int(max(medians.values()) > LIMIT_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
