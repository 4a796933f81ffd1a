"""Counts that do not depend on the machine's speed, compared with those kept in the repository.

    python -m benchmarks.counts [--write]

`tokens`: nodes of the prefix tree for made-up triplets at several shared prefixes. `operations`:
what loading a tiny Llama and two optimizer steps of two micro-batches each dispatch to torch, by
strategy. `peak_bytes`: the most that tensors held in these steps. `modules`: what each `--help`
imports. The exit code is 1 if any count left its tolerance; --write keeps today's counts as the
expected ones.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.memory import TINY, case_settings, config_of, save_tiny, triplets_of
from llmcausal.cli import COMMANDS
from llmcausal.data.triplet import MEMBERS
from llmcausal.memory.measure import measure_triplets
from llmcausal.memory.prediction import Workload
from llmcausal.memory.strategies import STRATEGIES
from llmcausal.train.batch import Needs, collate

EXPECTED = Path(__file__).parents[1] / "tests" / "benchmarks" / "counts.json"
TOLERANCES = {"tokens": 0.0, "operations": 0.01, "peak_bytes": 0.01, "modules": 0.1}
"""Largest relative distance to the expected count: releases of Python import a little more or
less, and torch may split an operation."""
MEMBER_TOKENS = 256
SHARES = (0.0, 0.25, 0.5, 0.75, 0.9)
NEEDS = Needs(frozenset(MEMBERS), frozenset({"task", "robust"}))
_HELP = """
import sys, json
from llmcausal.cli.app import main
sys.argv = ["llmcausal", *sys.argv[1:], "--help"]
try:
    main()
except SystemExit:
    pass
print()
print(json.dumps(sorted(sys.modules)))
"""
Counts = dict[str, dict[str, int]]


class OperationCount(TorchDispatchMode):
    """Counts the operations that reach torch's kernels; backward passes on a CPU included."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.total += 1
        return function(*args, **(kwargs or {}))


def tree_tokens() -> dict[str, int]:
    """Counts the nodes of trees of one and of four triplets."""
    counts = {}
    for triplets in (1, 4):
        for share in SHARES:
            load = Workload(MEMBER_TOKENS, int(share * MEMBER_TOKENS), 64, triplets)
            batch = collate(triplets_of(load), NEEDS, "mean")
            counts[f"{triplets} x 3 x {MEMBER_TOKENS}, {share:.0%} shared"] = len(batch.tokens)
    return counts


def step_counts(folder: str) -> tuple[dict[str, int], dict[str, int]]:
    """Counts operations and peak bytes of loading the tiny Llama and two steps, by strategy."""
    operations, peaks = {}, {}
    for strategy in STRATEGIES:
        case = (TINY, "none", strategy, 128, 64, 8, 1, "adamw")
        settings = case_settings(case, folder)
        config = config_of(settings)
        rows = triplets_of(Workload(**settings["workload"]))
        with OperationCount() as counted:
            measurement = measure_triplets(config, rows, steps=2)
        operations[strategy] = counted.total
        peaks[strategy] = measurement.allocated_peak_bytes
    return operations, peaks


def help_modules() -> Iterator[tuple[str, list[str]]]:
    """Yields each command and the names of the modules that its `--help` imports."""
    for name in ("", *COMMANDS.entries):
        command = [sys.executable, "-c", _HELP, *([name] if name else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        yield f"llmcausal {name}".strip(), json.loads(done.stdout.splitlines()[-1])


def largest_packages(modules: list[str]) -> str:
    """Names the packages with the most modules."""
    packages = Counter(module.partition(".")[0] for module in modules)
    return ", ".join(f"{name} {count}" for name, count in packages.most_common(3))


def differences(found: Counts, expected: Counts) -> list[str]:
    """Says which counts are not as expected, are missing or are new."""
    lines = []
    for kind, tolerance in TOLERANCES.items():
        kept, seen = expected.get(kind, {}), found[kind]
        for name in sorted(kept.keys() | seen.keys()):
            if name not in kept or name not in seen:
                lines.append(f"{kind}, {name}: {kept.get(name)} expected, {seen.get(name)} found")
            elif abs(seen[name] - kept[name]) > tolerance * kept[name]:
                within = f"expected {kept[name]:,} within {tolerance:.0%}"
                lines.append(f"{kind}, {name}: {seen[name]:,}, {within}")
    return lines


def main() -> int:
    """Counts, prints and compares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="keep these counts as expected")
    parser.add_argument("--expected", type=Path, default=EXPECTED)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # kernels take scratch memory for each thread
    with tempfile.TemporaryDirectory(prefix="counts-") as folder:
        save_tiny(folder)
        operations, peaks = step_counts(folder)
    helps = dict(help_modules())
    found: Counts = {
        "tokens": tree_tokens(),
        "operations": operations,
        "peak_bytes": peaks,
        "modules": {name: len(modules) for name, modules in helps.items()},
    }
    for kind, counts in found.items():
        print(kind)
        for name, count in counts.items():
            packages = f"  {largest_packages(helps[name])}" if kind == "modules" else ""
            print(f"  {name:32}{count:14,}{packages}")
    if arguments.write:
        arguments.expected.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
        print(f"written to {arguments.expected}")
        return 0
    expected = json.loads(arguments.expected.read_text("utf-8"))
    wrong = differences(found, expected)
    for line in wrong:
        print(f"not as expected: {line}")
    if wrong:
        print("If that was meant: python -m benchmarks.counts --write")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
