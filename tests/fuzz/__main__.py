"""Gives broken files to every reader and counts what went wrong.

    python -m tests.fuzz [--inputs 100000] [--seed N] [--out FILE.json]

Wrong is: any exception that is not the program's own, more than two seconds for one input, or
more than half a GiB of address space beside what the process has: each reader has a process of its
own, whose limit makes more a MemoryError.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
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
GROWTH_MIB = 512


class Hung(BaseException):
    """An input took too long; not an `Exception`, so that no reader takes it for its own."""


def trial(reader: Reader, path: Path, content: bytes) -> tuple[str, str]:
    """Returns how it ended (`read`, `refused` or `wrong`) and, where wrong, how."""
    path.write_bytes(content)
    signal.setitimer(signal.ITIMER_REAL, SLOW_SECONDS)
    try:
        reader.read(path)
        ended, why = "read", ""
    except LlmcausalError as error:
        ended, why = "refused", ""
        if not str(error).strip():
            ended, why = "wrong", "a message without text"
    except (Exception, Hung):
        ended, why = "wrong", traceback.format_exc(limit=-3)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return ended, why


def _hang(_signal: int, _frame: object) -> None:
    raise Hung(f"longer than {SLOW_SECONDS} s")


def fuzz(reader: Reader, folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Tries one reader so many times, in a copy of this process that may not grow."""
    answer = folder / "answer.json"
    child = os.fork()
    if not child:
        try:
            limit = address_space() + GROWTH_MIB * 2**20
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            signal.signal(signal.SIGALRM, _hang)
            answer.write_text(json.dumps(_fuzz(reader, folder, count, seed)), "utf-8")
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        raise SystemExit(f"{reader.name}: the process ended with {status}")
    line: dict[str, Any] = json.loads(answer.read_text("utf-8"))
    return line


def address_space() -> int:
    """Returns the bytes of this process' address space."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _fuzz(reader: Reader, folder: Path, count: int, seed: int) -> dict[str, Any]:
    path = folder / reader.file
    path.parent.mkdir(parents=True, exist_ok=True)
    for content in reader.seeds:
        ended, why = trial(reader, path, content)
        if ended == "wrong" or (content is reader.seeds[0] and ended != "read"):
            raise SystemExit(f"{reader.name}: a sound file was {ended}: {why}")
    counts, wrong = {"read": 0, "refused": 0, "wrong": 0}, []
    before, started = _peak_mib(), time.monotonic()
    for number in range(count):
        content = mutated(reader.seeds, random.Random(f"{seed}:{reader.name}:{number}"))
        ended, why = trial(reader, path, content)
        counts[ended] += 1
        if ended == "wrong" and len(wrong) < 5:
            wrong.append({"why": why, "content": content[:2000].decode("latin-1")})
    return {"reader": reader.name, **counts, "examples": wrong, "growth_mib": _peak_mib() - before,
            "seconds": round(time.monotonic() - started, 1)}  # fmt: skip


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzzes every reader; 1 if something went wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="over all readers")
    parser.add_argument("--only", default="", help="readers whose name holds this")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    warnings.simplefilter("error")
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        known = [each for each in readers(folder) if given.only in each.name]
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
