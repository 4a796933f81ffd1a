"""Runs benchmarks: python -m benchmarks [NAME [options] | all].

Without a name, they are listed. `all` runs those that `make bench` runs, each in a process of its
own, and goes on after one that fails. Results lie in benchmarks/results; `python
docs/benchmarks.py` makes a page of them. BENCHMARKS_BESIDE, if set, is kept in each result: what
else the machine was doing.
"""

from __future__ import annotations

import subprocess
import sys
import time

BENCHMARKS = {
    "startup": "every --help, and from `train` to the first step, against other programs",
    "data": "tokenizing and packing triplets, against a `datasets.map` pipeline",
    "estimates": "predicted memory against other estimators and measured memory",
    "merging": "peak memory of merging an adapter into a base of 2 GB",
    "eval": "answers per second, against plain transformers",
    "precisions": "speed and likeness of a checkpoint's answers in bf16 against fp32",
    "step_peers": "a training step against a user's alternatives, at equal loss",
    "beside": "a training step alone and with programs that keep a core busy",
    "evidence": "defences with equal data and steps, under the same attacks, in generated text",
    "step_growth": "growth of a step's time and memory with length, batch, rank and vocabulary",
    "limit": "a step's share of the machine's matrix-product rate",
    "step": "a training step against padded batches, on a file of triplets",
    "memory": "predicted peaks against measured peaks; each strategy's memory",
    "roofline": "predicted step times against measured ones, at this CPU's own rates",
    "counts": "counts that do not depend on the machine, compared with the expected ones",
}
"""Names and what they measure; `all` goes through them in this order."""
NOT_IN_ALL = ("step", "memory", "precisions", "evidence")
"""Long, measured by another one too, or in want of a checkpoint."""


def run(name: str, options: list[str]) -> int:
    """Runs one benchmark in a process of its own; returns its exit code."""
    return subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options]).returncode


def run_all() -> int:
    """Runs what `make bench` runs; returns how many failed."""
    failed = []
    for name in BENCHMARKS:
        if name in NOT_IN_ALL:
            continue
        print(f"\n== {name}: {BENCHMARKS[name]}", flush=True)
        started = time.perf_counter()
        if run(name, []):
            failed.append(name)
        print(f"== {name}: {time.perf_counter() - started:.0f} s", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return len(failed)


def main(arguments: list[str]) -> int:
    """Lists, or runs what is named."""
    if arguments[:1] == ["all"] and len(arguments) == 1:
        return run_all()
    if arguments and arguments[0] in BENCHMARKS:
        return run(arguments[0], arguments[1:])
    print(f"{__doc__}\n" + "\n".join(f"  {name:12}{line}" for name, line in BENCHMARKS.items()))
    if arguments and arguments[0] not in ("-h", "--help"):
        print(f"\nno benchmark is called {' '.join(arguments)!r}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
