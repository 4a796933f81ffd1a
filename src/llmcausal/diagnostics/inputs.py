"""Checks of what a profile names: model, data."""

from __future__ import annotations

import glob
import os
from functools import lru_cache
from pathlib import Path

from llmcausal.config import ModelSection
from llmcausal.diagnostics.check import DoctorCheck, one_line
from llmcausal.diagnostics.facts import Facts
from llmcausal.errors import DataError, LlmcausalError

HUB_SECONDS = 10.0
"""How long to wait for the hub's answer."""
GGUF_EXPANSION = 8
"""fp32 weights against a GGUF file of 4 bits a weight."""
MIB = 2**20


def check_model(facts: Facts) -> DoctorCheck:
    """Checks that the profile's model can be found: package, folder, cache, or hub."""
    return find_model(facts.config.model)


def find_model(section: ModelSection) -> DoctorCheck:
    """Looks for a model, as `check_model`."""
    from llmcausal.model.gguf import PREFIX, find_gguf

    fix = "set model.name to a local folder, a hub id, or package:MODULE"
    try:
        if section.name.startswith(PREFIX):
            path = find_gguf(section.name)
            return DoctorCheck("model", "pass", f"{path.name} in package {path.parent.name}")
        from llmcausal.model.factory import resolve_source

        source = resolve_source(section)
    except LlmcausalError as error:
        return DoctorCheck("model", "fail", one_line(str(error)), fix)
    if Path(source).is_dir():
        return _folder(Path(source))
    if hub_weights_cached(section):
        return DoctorCheck("model", "pass", f"{source} is in the hub cache")
    if _hub_is_off():
        return DoctorCheck(
            "model",
            "fail",
            f"{source} is not in the hub cache and HF_HUB_OFFLINE is set",
            "unset HF_HUB_OFFLINE, or give a local folder",
        )
    size, problem = _hub_size(source, section.revision)
    if problem:
        return DoctorCheck("model", "fail", f"{source}: {problem[0]}", problem[1])
    return DoctorCheck(
        "model", "pass", f"{source} is on the hub; {(size or 0) / MIB:,.0f} MiB to download"
    )


def check_data(facts: Facts) -> DoctorCheck:
    """Checks the data of all three splits, wholly."""
    from llmcausal.data.splits import load_split, load_training_splits

    try:
        splits = load_training_splits(facts.config.data)
        test = load_split(facts.config.data, "test")
    except DataError as error:
        first, *rest = error.defects or [str(error)]
        more = f" (and {len(rest)} more)" if rest else ""
        fix = "`llmcausal data validate FILE` lists every defect"
        return DoctorCheck("data", "fail", one_line(first) + more, fix)
    counts = (len(splits.train), len(splits.validation), len(test))
    return DoctorCheck(
        "data", "pass", "{} training, {} validation, {} test triplets".format(*counts)
    )


def weights_bytes(section: ModelSection) -> int | None:
    """Returns the size of the model's weights as loaded from disk, or None if nobody knows."""
    from llmcausal.model.gguf import PREFIX, find_gguf

    try:
        if section.name.startswith(PREFIX):
            return find_gguf(section.name).stat().st_size * GGUF_EXPANSION
    except LlmcausalError:
        return None
    folder = Path(section.name).expanduser()
    if not folder.is_dir():
        cached = cached_config(section)
        if cached is None:
            return None if _hub_is_off() else _hub_size(section.name, section.revision)[0]
        folder = cached.parent
    return sum(file.stat().st_size for file in _weight_files(folder)) or None


def is_stored(section: ModelSection) -> bool:
    """Says whether the model needs no further disk space: a folder, cached, or converted."""
    from llmcausal.model.gguf import PREFIX, cache_dir, find_gguf

    if section.name.startswith(PREFIX):
        stem = find_gguf(section.name).stem
        return any((cache_dir() / "converted").glob(f"{glob.escape(stem)}-*/config.json"))
    return Path(section.name).expanduser().is_dir() or hub_weights_cached(section)


def hub_weights_cached(section: ModelSection) -> bool:
    """Says whether configuration and weights of a hub model are in the local cache."""
    config = cached_config(section)
    return config is not None and bool(_weight_files(config.parent))


def _folder(folder: Path) -> DoctorCheck:
    if _weight_files(folder):
        return DoctorCheck("model", "pass", f"local folder {folder}")
    return DoctorCheck(
        "model",
        "fail",
        f"{folder} has a config.json but no weights",
        "copy the model's .safetensors files there",
    )


def _weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def cached_config(section: ModelSection) -> Path | None:
    """Returns the config.json of a hub model in the local cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(section.name, "config.json", revision=section.revision)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def _hub_is_off() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


@lru_cache
def _hub_size(name: str, revision: str | None) -> tuple[int | None, tuple[str, str] | None]:
    """Asks the hub for the bytes of the weights; else a problem and its fix."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        api = HfApi()
        info = api.model_info(name, revision=revision, timeout=HUB_SECONDS, files_metadata=True)
        api.auth_check(name)
    except GatedRepoError:
        return None, ("access is gated", "accept its licence on the hub, then `hf auth login`")
    except RepositoryNotFoundError:
        return None, ("no such model, or it is private", "check the spelling, or `hf auth login`")
    except Exception as error:  # the transport's own errors share no base
        reason = one_line(str(error)) or type(error).__name__
        return None, (
            f"not cached, and the hub does not answer: {reason}",
            "check the network, or give a local folder",
        )
    sizes = [f.size or 0 for f in info.siblings or [] if f.rfilename.endswith(".safetensors")]
    return sum(sizes), None
