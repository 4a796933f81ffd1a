"""A training step alone, and beside programs that keep a core busy.

    python -m benchmarks.beside [--precision bf16] [--only 256:0.5]

Ours and plain transformers and peft, each in a process of its own, one after the other. A busy
program is a Python loop; at nice 19 the system gives it almost nothing where cores are contended,
so that what a step loses to it is lost by waiting for a thread that is off its core. At nice 0 it
gets its fair share: half of a core of two is a quarter of the machine.

Linux compares priorities within a session only (`sched_autogroup_enabled`): a program that another
terminal started at nice 19 takes as much as one at nice 0, and it is measured, too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.result import header, write
from benchmarks.step_peers import MODEL, SEED, STEPS
from benchmarks.step_workers import Variant, Worker
from benchmarks.step_workload import Case, builtin_stream, make_workload, write_workload

BESIDE: dict[str, tuple[tuple[int, ...], bool]] = {
    "alone": ((), False),
    "one at nice 19": ((19,), False),
    "two at nice 19": ((19, 19), False),
    "one at nice 0": ((0,), False),
    "one at nice 19 in another session": ((19,), True),
}
"""Priorities of the busy programs, and whether they have sessions of their own."""
GOALS = {"one at nice 19": 1.6, "two at nice 19": 2.5}
VARIANTS = (
    Variant("ours: keep", "ours", {"strategy": "keep", "unpack": True}),
    Variant(
        "ours: keep, one thread",
        "ours",
        {"strategy": "keep", "unpack": True},
        variables={"OMP_NUM_THREADS": "1"},
    ),
    Variant("plain, one batch", "plain", {"passes": "one"}),
)
BUSY = "while True: sum(range(10**6))"


@contextmanager
def busy(priorities: tuple[int, ...], apart: bool) -> Iterator[None]:
    """Keeps so many programs busy, each in a session of its own if `apart`."""
    programs = [
        subprocess.Popen(
            ["nice", "-n", str(each), sys.executable, "-c", BUSY], start_new_session=apart
        )
        for each in priorities
    ]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def main() -> None:
    """Measures, prints and writes the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--only", default="256:0.5", metavar="LENGTH:SHARE")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()

    from llmcausal.config import ModelSection
    from llmcausal.model.factory import resolve_source

    length, share = arguments.only.split(":")
    case = Case(int(length), float(share), 1)
    result = header("beside", {"workload": SEED})
    result |= {"precision": arguments.precision, "goals": GOALS, "case": case.name, "rows": []}
    model = resolve_source(ModelSection(name=MODEL))
    with tempfile.TemporaryDirectory(prefix="beside-") as name:
        folder = Path(name)
        workload = make_workload([case], builtin_stream(MODEL), model=model, rank=16, seed=SEED)
        write_workload(folder, workload | {"precision": arguments.precision})
        for variant in VARIANTS:
            alone = None
            with Worker(variant, folder) as worker:
                for beside, (priorities, apart) in BESIDE.items():
                    with busy(priorities, apart):
                        answer = worker.ask(case.name, profiled=False, most=STEPS)
                    if worker.failure is not None:
                        raise SystemExit(f"{variant.name}: {worker.failure}")
                    seconds = statistics.median(answer["samples"])
                    alone = alone or seconds
                    result["rows"].append(
                        {
                            "variant": variant.name, "beside": beside,
                            "samples": answer["samples"], "steady": answer["steady"],
                            "times_alone": seconds / alone,
                        }
                    )  # fmt: skip
                    print(f"{variant.name:24}{beside:34}{seconds:8.3f} s a step, "
                          f"{seconds / alone:.2f} times that alone", flush=True)  # fmt: skip
                    write(result, arguments.out)
    print(json.dumps({"goals": GOALS}))


if __name__ == "__main__":
    main()
