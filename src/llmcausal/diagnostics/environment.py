"""Checks of Python, packages, host memory and disk."""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path

from llmcausal.diagnostics.check import DoctorCheck
from llmcausal.diagnostics.facts import Facts
from llmcausal.diagnostics.gpu import more_memory
from llmcausal.diagnostics.inputs import is_stored, weights_bytes

GIB = 2**30
MINIMUM_PYTHON = (3, 11)
WORKING_BYTES = 2 * GIB
"""Host memory for Python, the libraries and activations of a small model, besides the weights."""
CHECKPOINT_BYTES = GIB
"""Disk for a run whose checkpoints' size is unknown."""
LOG_BYTES = 2**26
"""Disk for a run's log, report and answers."""
SHOWN_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")


def check_python(facts: Facts) -> DoctorCheck:
    """Checks the interpreter's version, and names the system."""
    machine = facts.machine
    system = f"{machine.system} in WSL" if machine.wsl else machine.system
    found = f"{'.'.join(map(str, machine.python))} on {system}"
    if machine.python >= MINIMUM_PYTHON:
        return DoctorCheck("python", "pass", found)
    wanted = ".".join(map(str, MINIMUM_PYTHON))
    return DoctorCheck("python", "fail", found, f"install Python {wanted} or newer")


def check_packages(facts: Facts) -> DoctorCheck:
    """Checks that every package this program requires is installed in a version it accepts."""
    from packaging.requirements import Requirement

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
        return DoctorCheck(
            "packages", "fail", "; ".join(wrong), "run `make` or `pip install -e .` again"
        )
    versions = [f"{name} {importlib.metadata.version(name)}" for name in SHOWN_PACKAGES]
    return DoctorCheck("packages", "pass", ", ".join(versions))


def check_memory(facts: Facts) -> DoctorCheck:
    """Checks the free host memory against what loading and training take."""
    machine = facts.machine
    held: int | None = 0
    if not facts.on_gpu:
        held = weights_bytes(facts.config.model)
        if held is None and (size := facts.size()):
            held = 2 * size.parameters  # as published: 16 bits a number
    elif facts.own:
        held = facts.own.strategies[-1].host_bytes
    need = WORKING_BYTES + (held or 0)
    found = f"{machine.ram_free_bytes / GIB:.1f} GiB free of {machine.ram_bytes / GIB:.1f}"
    found += f", about {need / GIB:.1f} needed"
    if held is None:
        found += " plus the model, whose size is unknown"
    if machine.ram_free_bytes >= need:
        return DoctorCheck("memory", "pass", found)
    return DoctorCheck("memory", "fail", found, more_memory(machine))


def check_disk(facts: Facts) -> DoctorCheck:
    """Checks the free disk space against checkpoints and what is still to be fetched."""
    from llmcausal.model.gguf import PREFIX, cache_dir

    config = facts.config
    need = {_existing_parent(config.output_dir): _run_bytes(facts)}
    if not is_stored(config.model) and (weights := weights_bytes(config.model)):
        packaged = config.model.name.startswith(PREFIX)
        folder = _existing_parent(cache_dir() if packaged else _hub_cache())
        need[folder] = need.get(folder, 0) + weights
    short, told = [], []
    for folder, needed in need.items():
        free = shutil.disk_usage(folder).free
        told.append(f"{free / GIB:.1f} GiB free in {folder}, about {needed / GIB:.1f} needed")
        if free < needed:
            short.append(str(folder))
    size = facts.size()
    told.append(
        f"a checkpoint takes about {size.checkpoint_bytes / 2**20:,.0f} MiB"
        if size
        else "checkpoint size unknown"
    )
    if short:
        fix = f"free some space in {', '.join(short)}, or set output_dir to another disk"
        return DoctorCheck("disk", "fail", "; ".join(told), fix)
    return DoctorCheck("disk", "pass", "; ".join(told))


def _run_bytes(facts: Facts) -> int:
    """Returns the most that a run holds: those kept, the best one, and one being written."""
    size = facts.size()
    if size is None:
        return CHECKPOINT_BYTES
    return LOG_BYTES + size.checkpoint_bytes * (facts.config.checkpoint.keep + 2)


def _hub_cache() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _existing_parent(folder: Path) -> Path:
    folder = folder.expanduser().absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder
