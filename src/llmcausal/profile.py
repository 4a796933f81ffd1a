"""Profiles: finds, reads, overrides, checks and writes them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llmcausal.config import RUN_NAME, RunConfig
from llmcausal.data_files import defects_of
from llmcausal.errors import ConfigError
from llmcausal.registry import nearest
from llmcausal.storage import TooLargeError, read_at_most

MAX_PROFILE_BYTES = 64 * 2**10
MAX_LINE_CHARACTERS = 2000
"""tomllib needs quadratic time and memory in a key's parts: half a minute for 64 KiB."""
MAX_DEFECTS = 100


def shipped_profiles() -> dict[str, Path]:
    """Returns the shipped profiles' files by name."""
    here = Path(__file__).resolve().parent
    found: dict[str, Path] = {}
    for folder in (here, here.parents[1]):  # in the wheel; in a checkout, next to `src`
        for path in sorted((folder / "profiles").glob("*.toml")):
            found.setdefault(path.stem, path)
    return found


def find_profile(profile: str | Path) -> Path:
    """Finds a profile by path, or a shipped one by name; raises `ConfigError` if there is none."""
    path = Path(profile)
    if path.is_file():
        return path
    shipped = shipped_profiles()
    if str(profile) in shipped:
        return shipped[str(profile)]
    raise ConfigError(
        f"{profile}: no such profile{nearest(path.stem, shipped) or '.'} "
        f"Give a TOML file, or one of: {', '.join(shipped)}"
    )


def load_config(profile: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a profile and applies `a.b=c` overrides; a ConfigError lists every defect."""
    path = find_profile(profile)
    try:
        text = read_at_most(path, MAX_PROFILE_BYTES).decode("utf-8")
        _check_lines(path, text)
        values = tomllib.loads(text)
    except TooLargeError as error:
        raise ConfigError(f"{path}: {error}, the limit for a profile") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    overridden = {_apply_override(values, override) for override in overrides}
    values.setdefault("name", path.stem if re.fullmatch(RUN_NAME, path.stem) else "run")
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        defects = [
            f"--set {each.key}: {each.reason}" if each.key in overridden else each.at(path)
            for each in defects_of(error, RunConfig, text)
        ]
        if (more := len(defects) - MAX_DEFECTS) > 0:
            defects[MAX_DEFECTS:] = [f"... and {more} more"]
        raise ConfigError("\n".join(defects)) from None


def _check_lines(path: Path, text: str) -> None:
    for number, line in enumerate(text.split("\n"), start=1):
        if len(line) > MAX_LINE_CHARACTERS:
            raise ConfigError(
                f"{path}:{number}: line: longer than {MAX_LINE_CHARACTERS:,} characters"
            )


def _apply_override(values: dict[str, Any], override: str) -> str:
    key, separator, raw = override.partition("=")
    key = key.strip()
    if not separator or not key:
        raise ConfigError(f"--set {override}: write it as section.key=value")
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except (ValueError, RecursionError):
        value = raw.strip()
    *parents, last = key.split(".")
    target = values
    for parent in parents:
        child = target.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override}: {parent} is not a section")
        target = child
    target[last] = value
    return key


def dump_config(config: RunConfig) -> str:
    """Writes all settings as TOML, without those that are None."""
    import tomli_w

    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def config_differences(old: RunConfig, new: RunConfig) -> list[str]:
    """Lists settings whose values differ, as `key: old -> new`."""
    before, now = (flatten(config.model_dump(mode="json")) for config in (old, new))
    return [
        f"{key}: {before.get(key)!r} -> {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]


def flatten(values: Mapping[str, Any], separator: str = ".", prefix: str = "") -> dict[str, Any]:
    """Flattens nested tables into one with keys such as `section.key`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, separator, f"{prefix}{key}{separator}")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
