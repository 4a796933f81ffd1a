"""Gives broken files to every reader and counts what went wrong.

    python -m tests.fuzz [--inputs 100000] [--seed N] [--out FILE.json]

Wrong is: any exception that is not the program's own, more than two seconds for one input, or
memory that grows with the inputs.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import tempfile
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmcausal.errors import LlmcausalError
from tests.fuzz.mutation import mutated
from tests.fuzz.readers import Reader, readers

SLOW_SECONDS = 2.0
GROWTH_MIB = 200


def trial(reader: Reader, path: Path, content: bytes) -> tuple[str, str]:
    """Returns how it ended (`read`, `refused` or `wrong`) and, where wrong, how."""
    path.write_bytes(content)
    started = time.perf_counter()
    try:
        reader.read(path)
        ended, why = "read", ""
    except LlmcausalError as error:
        ended, why = "refused", ""
        if not str(error).strip():
            ended, why = "wrong", "a message without text"
    except Exception:
        ended, why = "wrong", traceback.format_exc(limit=-3)
    seconds = time.perf_counter() - started
    if seconds > SLOW_SECONDS:
        ended, why = "wrong", f"{seconds:.1f} s"
    return ended, why


def fuzz(reader: Reader, folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Tries one reader so many times."""
    path = folder / reader.file
    path.parent.mkdir(parents=True, exist_ok=True)
    for content in reader.seeds:
        ended, why = trial(reader, path, content)
        if ended != "read":
            raise SystemExit(f"{reader.name}: a sound file was {ended}: {why}")
    counts, wrong = {"read": 0, "refused": 0, "wrong": 0}, []
    before, started = _peak_mib(), time.monotonic()
    for number in range(count):
        content = mutated(reader.seeds, random.Random(f"{seed}:{reader.name}:{number}"))
        ended, why = trial(reader, path, content)
        counts[ended] += 1
        if ended == "wrong" and len(wrong) < 5:
            wrong.append({"why": why, "content": content[:2000].decode("latin-1")})
    growth = _peak_mib() - before
    if growth > GROWTH_MIB:
        wrong.append({"why": f"{growth} MiB more memory", "content": ""})
        counts["wrong"] += 1
    return {"reader": reader.name, **counts, "examples": wrong, "growth_mib": growth,
            "seconds": round(time.monotonic() - started, 1)}  # fmt: skip


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzzes every reader; 1 if something went wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="over all readers")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    warnings.simplefilter("error")
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        known = list(readers(folder))
        each = -(-given.inputs // len(known))
        print(f"seed {given.seed}\n{'reader':30}{'inputs':>8}{'read':>8}{'refused':>9}{'wrong':>7}"
              f"{'MiB':>6}{'s':>7}")  # fmt: skip
        lines = []
        for reader in known:
            lines.append(line := fuzz(reader, folder, each, given.seed))
            print(
                f"{line['reader']:30}{each:8}{line['read']:8}{line['refused']:9}"
                f"{line['wrong']:7}{line['growth_mib']:6}{line['seconds']:7}",
                flush=True,
            )
            for example in line["examples"][:2]:
                print(f"    {example['why'].strip()}")
    finally:
        shutil.rmtree(folder)
    total = sum(line["wrong"] for line in lines)
    print(f"{each * len(lines)} inputs to {len(lines)} readers, {total} wrong")
    if given.out:
        from llmcausal.assembly.run_directory import environment

        report = {"seed": given.seed, "readers": lines, "environment": environment()}
        given.out.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    return 1 if total else 0


if __name__ == "__main__":
    raise SystemExit(main())
