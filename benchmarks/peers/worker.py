"""The process of a variant: takes a case a line, runs it, answers with times, losses and peaks.

Nothing but the standard library and torch is imported: every peer's environment has these.
"""

from __future__ import annotations

import ctypes
import gc
import json
import math
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

MEMBERS = ("benign", "benign_cf", "injection")
TAU = 0.07
STEADY_RUNS, STEADY_WITHIN = 3, 0.05
_PACKAGES = ("torch", "transformers", "peft", "trl", "sentence-transformers", "llamafactory",
             "litgpt")  # fmt: skip


class Variant(Protocol):
    """A way to compute the step.

    Attributes:
        modules: Whatever holds weights.
    """

    modules: list[Any]

    def run(self, triplets: list[dict[str, Any]]) -> tuple[float, int]:
        """Goes forward and backward; returns the sum of the triplets' losses and the tokens."""


def memory_bytes(field: str) -> int:
    """Returns a field of /proc/self/status, such as VmHWM, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def give_back() -> None:
    """Gives free heap back to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def forget_peak() -> None:
    """Sets VmHWM to what the process holds."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def weights_bytes(modules: list[Any]) -> int:
    """Counts the bytes of all parameters and buffers once."""
    storages = {}
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def allocated_peak(work: Callable[[], Any]) -> int:
    """Runs once under torch's profiler; returns the peak of what its allocator gave meanwhile."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    total = peak = 0
    events = [
        (event.start_ns(), event.nbytes())
        for event in profiler.profiler.kineto_results.events()
        if event.name() == "[memory]" and event.device_type() == torch.profiler.DeviceType.CPU
    ]
    for _, count in sorted(events, key=lambda event: event[0]):
        total += count
        peak = max(peak, total)
    return peak


def pad(rows: list[list[int]], width: int | None = None) -> tuple[Any, Any]:
    """Returns rows as one tensor of ids, and the mask of what is not padding, [rows, width]."""
    import torch

    width = width or max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    visible = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
        visible[number, : len(row)] = 1
    return ids, visible


def is_steady(seconds: list[float]) -> bool:
    """Tells whether the last three runs took the same time to 5%."""
    last = seconds[-STEADY_RUNS:]
    return len(last) == STEADY_RUNS and max(last) <= (1 + STEADY_WITHIN) * min(last)


def _measured(variant: Variant, case: dict[str, Any], profiled: bool, most: int) -> dict[str, Any]:
    """Runs a case over all of its triplets until it is steady; answers for the last three runs.

    The process keeps one run's memory for the next, as in training, where a step finds what the one
    before it left: what allocates most is still slower in its second run. With `profiled`, torch's
    peak of the first run is counted, which is not timed unless it is all.
    """
    batch = case["batch"]
    groups = [case["triplets"][start : start + batch] for start in range(0, case["count"], batch)]
    parameters = [p for m in variant.modules for p in m.parameters() if p.requires_grad]

    def forget_gradients() -> None:
        for parameter in parameters:
            parameter.grad = None

    answers: list[dict[str, Any]] = []

    def run() -> None:
        forget_gradients()
        seconds, busy, losses, tokens = [], [], [], []
        for group in groups:
            started, started_busy = time.perf_counter(), time.process_time()
            loss, computed = variant.run(group)
            seconds.append(time.perf_counter() - started)
            busy.append(time.process_time() - started_busy)
            losses.append(loss)
            tokens.append(computed)
        answers.append(
            {"seconds": seconds, "cpu_seconds": busy, "losses": losses, "tokens": sum(tokens)}
        )

    give_back()
    forget_peak()
    peaks = {}
    if profiled:
        weights = weights_bytes(variant.modules)
        peaks = {"weights_bytes": weights, "allocated_peak_bytes": weights + allocated_peak(run)}
    else:
        run()
    spent: list[float] = []
    while len(spent) < most and not is_steady(spent):
        forget_peak()
        run()
        spent.append(sum(answers[-1]["seconds"]))
    gradients = [p.grad for p in parameters if p.grad is not None]
    answer = {
        **answers[-1],
        "samples": [sum(each["seconds"]) for each in answers[1:][-STEADY_RUNS:] or answers],
        "cpu_samples": [sum(each["cpu_seconds"]) for each in answers[1:][-STEADY_RUNS:] or answers],
        "runs": len(answers),
        "steady": is_steady(spent),
        "gradient_norm": math.sqrt(sum(float(g.double().square().sum()) for g in gradients)),
        "peak_rss_bytes": memory_bytes("VmHWM"),
        **peaks,
    }
    forget_gradients()
    return answer


def versions() -> dict[str, str]:
    """Returns the versions of the libraries that are installed here."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def serve(make: Callable[[Path, dict[str, Any], dict[str, Any]], Variant]) -> None:
    """Answers lines of `{"case": NAME, "profiled": BOOL, "most": RUNS}` until the input ends.

    Args:
        make: Builds the variant from the prepared folder, its workload and the options, which are
            the two arguments of the program.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is not an answer
    folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    workload = json.loads((folder / "workload.json").read_text(encoding="utf-8"))
    variant = make(folder, workload, options)
    print(json.dumps({"ready": True, "packages": versions()}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        case = workload["cases"][asked["case"]]
        answer = _measured(variant, case, asked["profiled"], asked["most"])
        give_back()  # the other variants' processes need the memory
        print(json.dumps(answer), file=answers, flush=True)
