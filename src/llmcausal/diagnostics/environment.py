"""Checks of the machine: Python, packages, memory, disk."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import sys
from pathlib import Path

from llmcausal.config import RunConfig
from llmcausal.diagnostics.check import Check
from llmcausal.diagnostics.inputs import is_stored, weights_bytes

GIB = 2**30
MINIMUM_PYTHON = (3, 11)
WORKING_BYTES = 2 * GIB
"""Host memory for Python, the libraries and activations of a small model, besides the weights."""
CHECKPOINT_BYTES = GIB
"""Disk for a run's checkpoints and log."""
SHOWN_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")


def check_python(config: RunConfig) -> Check:
    """Checks the interpreter's version."""
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info[:2] >= MINIMUM_PYTHON:
        return Check("python", "pass", found)
    wanted = ".".join(map(str, MINIMUM_PYTHON))
    return Check("python", "fail", found, f"install Python {wanted} or newer")


def check_packages(config: RunConfig) -> Check:
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
        return Check("packages", "fail", "; ".join(wrong), "run `make` or `pip install -e .` again")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in SHOWN_PACKAGES]
    return Check("packages", "pass", ", ".join(versions))


def check_memory(config: RunConfig) -> Check:
    """Checks the free host memory against what loading the model takes."""
    import psutil

    from llmcausal.model.device import choose_device

    memory = psutil.virtual_memory()
    on_cpu = choose_device(config.model.device).type == "cpu"
    weights = weights_bytes(config.model) if on_cpu else 0
    need = WORKING_BYTES + (weights or 0)
    found = f"{memory.available / GIB:.1f} GiB free of {memory.total / GIB:.1f}"
    found += f", about {need / GIB:.1f} needed"
    if weights is None:
        found += " besides the model, whose size is unknown"
    if memory.available >= need:
        return Check("memory", "pass", found)
    return Check("memory", "fail", found, "close other programs, or choose a smaller model")


def check_disk(config: RunConfig) -> Check:
    """Checks the free disk space against checkpoints and what is still to be fetched."""
    from llmcausal.model.gguf import PREFIX, cache_dir

    need = {_existing_parent(config.output_dir): CHECKPOINT_BYTES}
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
    if short:
        fix = f"free some space in {', '.join(short)}, or set output_dir to another disk"
        return Check("disk", "fail", "; ".join(told), fix)
    return Check("disk", "pass", "; ".join(told))


def _hub_cache() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _existing_parent(folder: Path) -> Path:
    folder = folder.expanduser().absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder
