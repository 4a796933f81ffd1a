"""The run directory: its name, its lock, and the files written before the first step."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from llmcausal.config import RunConfig
from llmcausal.errors import StorageError, UsageError
from llmcausal.profile import dump_config

CONFIG_FILE = "config.toml"
ENVIRONMENT_FILE = "environment.json"
PLAN_FILE = "memory_plan.json"
_PACKAGES = ("llmcausal", "torch", "transformers", "peft", "bitsandbytes", "tokenizers", "numpy")


def claim_name(config: RunConfig) -> RunConfig:
    """Returns the config under a name whose directory is free: NAME, NAME-2, NAME-3, ..."""
    name, number = config.name, 1
    while (config.output_dir / name).exists():
        number += 1
        name = f"{config.name}-{number}"
    return config.model_copy(update={"name": name})


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """Returns the config with absolute paths: a run directory can be resumed from any folder."""

    def absolute(name: str) -> str:
        path = Path(name).expanduser()
        return str(path.resolve()) if path.exists() else name

    template = config.model.chat_template
    model = {
        "name": absolute(config.model.name),
        "chat_template": template and template.expanduser().resolve(),
    }
    splits = ("train", "validation", "test")
    data = {name: absolute(getattr(config.data, name)) for name in splits}
    return config.model_copy(
        update={
            "model": config.model.model_copy(update=model),
            "data": config.data.model_copy(update=data),
        }
    )


def create(config: RunConfig, memory_plan: Mapping[str, Any] | None = None) -> None:
    run_dir = config.run_dir
    try:
        run_dir.mkdir(parents=True)
        (run_dir / ENVIRONMENT_FILE).write_text(json.dumps(environment(), indent=2), "utf-8")
        (run_dir / CONFIG_FILE).write_text(dump_config(config), "utf-8")
        if memory_plan is not None:
            (run_dir / PLAN_FILE).write_text(json.dumps(memory_plan, indent=2), "utf-8")
    except OSError as error:
        raise StorageError(
            f"{run_dir}: the run directory cannot be written: {error.strerror}. "
            "Name another with --output-dir."
        ) from error


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Locks the run directory; raises `UsageError` if another process has locked it."""
    try:
        lock = FileLock(run_dir / ".lock").acquire(timeout=0)
    except Timeout:
        raise UsageError(
            f"{run_dir}: another process is training this run; wait for it or stop it"
        ) from None
    except OSError as error:
        raise StorageError(f"{run_dir}: cannot be written: {error.strerror}") from error
    with lock:
        yield


def environment() -> dict[str, Any]:
    import torch

    processor = platform.processor()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor,
        "packages": versions(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def versions() -> dict[str, str]:
    """Returns the versions of the packages that influence the results."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def version_changes(before: Mapping[str, str]) -> list[str]:
    return [
        f"{package}: {before.get(package)} -> {now}"
        for package, now in versions().items()
        if before.get(package) != now
    ]


def version_changes_since_start(run_dir: Path) -> list[str]:
    file = run_dir / ENVIRONMENT_FILE
    try:
        return version_changes(json.loads(file.read_text("utf-8"))["packages"])
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return [f"{file} is not readable: versions cannot be compared"]
