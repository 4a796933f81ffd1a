"""Checks of Python, packages, host memory, disk and trackers."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import logging
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcausal.diagnostics.check import Facts, Finding, failed, passed, warning
from llmcausal.diagnostics.gpu import GIB, more_memory
from llmcausal.diagnostics.inputs import is_stored, weights_bytes
from llmcausal.diagnostics.machine import one_line

if TYPE_CHECKING:
    import torch

MINIMUM_PYTHON = (3, 11)
WORKING_BYTES = 2 * GIB
"""Host memory for Python, the libraries and a small model's activations, without the weights."""
CHECKPOINT_BYTES = GIB
"""Disk space for a run with checkpoints of unknown size."""
LOG_BYTES = 2**26
"""Disk space for a run's log, report and answers."""
TESTED = {
    "torch": "2.13",
    "transformers": "5.23",
    "peft": "0.21",
    "bitsandbytes": "0.50",
    "accelerate": "1.15",
}
"""Libraries whose private parts this program uses, and the tested versions (`constraints.txt`)."""
MOST_NF4_ROUNDING = 0.15
"""Rounding normal values to 16 levels in blocks of 64 costs about 9% of their norm."""
MOST_PRODUCT_ERROR = 1e-2


def check_python(facts: Facts) -> Finding:
    machine = facts.machine
    system = f"{machine.system} in WSL" if machine.wsl else machine.system
    found = f"{'.'.join(map(str, machine.python))} on {system}"
    if machine.python >= MINIMUM_PYTHON:
        return passed(found)
    wanted = ".".join(map(str, MINIMUM_PYTHON))
    return failed(found, f"install Python {wanted} or newer")


def check_packages(facts: Facts) -> Finding:
    """Checks that each required package is installed, in an accepted and tested version."""
    from packaging.requirements import Requirement
    from packaging.version import Version

    wrong = []
    for line in importlib.metadata.requires("llmcausal") or []:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} is not {requirement.specifier}")
    if wrong:
        return failed("; ".join(wrong), "run `make` or `pip install -e .` again")
    versions = {name: importlib.metadata.version(name) for name in TESTED}
    found = ", ".join(f"{name} {version}" for name, version in versions.items())
    untested = [
        name
        for name, version in versions.items()
        if Version(version).release[:2] != Version(TESTED[name]).release
    ]
    if not untested:
        return passed(found)
    differ = "; ".join(f"{name} {versions[name]}, tested: {TESTED[name]}" for name in untested)
    wanted = " ".join(f"'{name}=={TESTED[name]}.*'" for name in untested)
    return warning(
        f"not tested with these versions, whose private parts it uses: {differ}",
        f"pip install {wanted}, or `pip install -e . -c constraints.txt`",
    )


def check_memory(facts: Facts) -> Finding:
    """Compares the free host memory with the need of loading and training."""
    machine = facts.machine
    held: int | None = 0
    if not facts.gpu:
        held = weights_bytes(facts.config.model)
        if held is None and (size := facts.size()):
            held = 2 * size.parameters  # published weights have 16 bits per number
    elif facts.own:
        held = facts.own.strategies[-1].host_bytes
    need = WORKING_BYTES + (held or 0)
    found = f"{machine.ram_free_bytes / GIB:.1f} GiB free of {machine.ram_bytes / GIB:.1f}"
    found += f", about {need / GIB:.1f} needed"
    if held is None:
        found += " plus the model, whose size is unknown"
    if machine.ram_free_bytes >= need:
        return passed(found)
    return failed(found, more_memory(machine))


def check_disk(facts: Facts) -> Finding:
    """Compares the free disk space with the size of checkpoints and missing weights."""
    from huggingface_hub.constants import HF_HUB_CACHE

    from llmcausal.model.gguf import PREFIX, cache_dir

    config, size = facts.config, facts.size()
    run_bytes = CHECKPOINT_BYTES
    if size is not None:  # the kept checkpoints, the best one, and one being written
        run_bytes = LOG_BYTES + size.checkpoint_bytes * (config.checkpoint.keep + 2)
    need = {_existing_parent(config.output_dir): run_bytes}
    if not is_stored(config.model) and (weights := weights_bytes(config.model)):
        packaged = config.model.name.startswith(PREFIX)
        folder = _existing_parent(cache_dir() if packaged else Path(HF_HUB_CACHE))
        need[folder] = need.get(folder, 0) + weights
    short, parts = [], []
    for folder, needed in need.items():
        free = shutil.disk_usage(folder).free
        parts.append(f"{free / GIB:.1f} GiB free in {folder}, about {needed / GIB:.1f} needed")
        if free < needed:
            short.append(str(folder))
    parts.append(
        f"a checkpoint takes about {size.checkpoint_bytes / 2**20:,.0f} MiB"
        if size
        else "checkpoint size unknown"
    )
    if short:
        fix = f"free some space in {', '.join(short)}, or set output_dir to another disk"
        return failed("; ".join(parts), fix)
    return passed("; ".join(parts))


def _existing_parent(folder: Path) -> Path:
    folder = folder.expanduser().absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder


def check_trackers(facts: Facts) -> Finding:
    """Asks each tracker whether it could start now, and where it would send figures."""
    from llmcausal.train.trackers import TRACKERS

    tracking = facts.config.tracking
    if not tracking.trackers:
        return passed("none: figures stay in the run directory")
    wrong, ready = [], []
    for name in tracking.trackers:
        tracker = TRACKERS.load(name)
        with contextlib.redirect_stderr(io.StringIO()):  # wandb prints advice on logging in
            if problem := tracker.problem(tracking):
                wrong.append(f"{name}: {one_line(problem)}")
            else:
                ready.append(f"{name}: {one_line(tracker.destination(tracking))}")
    found = "; ".join(wrong + ready)
    if wrong:
        fix = "follow these messages, or train without trackers: --set tracking.trackers=[]"
        return failed(found, fix)
    return passed(found)


def check_torch(facts: Facts) -> Finding:
    torch = facts.machine.torch
    if torch is None:
        return failed(
            f"torch cannot be imported: {facts.machine.torch_problem}",
            "install it again: pip install --force-reinstall torch",
        )
    build = "{}.{}".format(*torch.cuda) if torch.cuda else None
    return passed(f"{torch.version}, " + (f"CUDA {build}" if build else "without CUDA"))


def check_bitsandbytes(facts: Facts) -> Finding:
    """Runs NF4 and the 8-bit optimizer on the profile's device."""
    import torch

    # Its advice on CPU kernels and paging is not a finding.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    device = torch.device("cuda" if facts.gpu else "cpu")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            rounding, error = nf4_errors(device)
            moved = adamw8bit_moves(device, paged=not facts.machine.windows_driver)
    except Exception as problem:  # a broken native library may raise anything
        return failed(
            f"{type(problem).__name__}: {one_line(str(problem))}",
            "install it again: pip install --force-reinstall --no-deps bitsandbytes",
        )
    if rounding > MOST_NF4_ROUNDING or error > MOST_PRODUCT_ERROR:
        detail = (
            f"NF4 rounds by {rounding:.0%}, its product is off by {error:.0%}, on {device.type}"
        )
    elif not moved:
        detail = f"an 8-bit AdamW step does not change the weights on {device.type}"
    else:
        found = f"NF4 (rounds by {rounding:.1%}) and 8-bit AdamW work on {device.type}"
        if facts.gpu and facts.machine.windows_driver:
            found += ", its states not paged: under the Windows driver that can end the process"
        return passed(found)
    fix = "install its newest version: pip install --upgrade --no-deps bitsandbytes"
    return failed(detail, fix)


def nf4_errors(device: torch.device) -> tuple[float, float]:
    """Returns the relative errors of rounding to NF4, and of the product with an NF4 weight.

    The reference of the product is the product with the dequantized weight.
    """
    import bitsandbytes as bnb
    import torch

    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(256, 256, generator=generator).to(device)
    inputs = torch.randn(16, 256, generator=generator).to(device)
    packed, state = bnb.functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    restored = bnb.functional.dequantize_4bit(packed, state)
    reference = inputs @ restored.T
    product = bnb.matmul_4bit(inputs, packed.t(), quant_state=state)
    return (
        float((restored - weight).norm() / weight.norm()),
        float((product - reference).norm() / reference.norm()),
    )


def adamw8bit_moves(device: torch.device, *, paged: bool) -> bool:
    """Returns whether one 8-bit AdamW step changes every weight to a finite value."""
    import bitsandbytes as bnb
    import torch

    # From 4096 elements on, bitsandbytes keeps the states in 8 bits; from 100,000 on it pages them.
    weight = torch.nn.Parameter(torch.ones(320, 320, device=device))
    before = weight.detach().clone()
    kind = bnb.optim.PagedAdamW8bit if paged else bnb.optim.AdamW8bit
    optimizer: Any = kind([weight], lr=1e-2)
    weight.sum().backward()
    optimizer.step()
    return bool(((weight != before) & weight.isfinite()).all())


def check_bf16(facts: Facts) -> Finding | None:
    """Compares the speed of bf16 and fp32 on the CPU: many processors only emulate bf16."""
    if facts.gpu:
        return None
    from llmcausal.model.device import FASTER_BF16, bf16_speedup

    speedup = bf16_speedup()
    measured = (
        f"a layer is {speedup:.2g} times as fast as in fp32 on this CPU (measured)"
        if speedup
        else "this CPU has no instructions for it"
    )
    faster = speedup >= FASTER_BF16
    precision = facts.config.model.precision
    if precision == "auto":
        return passed(f"{measured}; {'bf16' if faster else 'fp32'} is used")
    if precision != "bf16":
        return passed(f"{measured}; the profile uses fp32")
    if faster:
        return passed(measured)
    return warning(f"slow: {measured}", "train in fp32: --set model.precision=fp32")
