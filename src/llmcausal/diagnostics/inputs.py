"""Checks of a profile's model, chat template and data."""

from __future__ import annotations

import glob
import os
from functools import lru_cache
from pathlib import Path

from llmcausal.config import ModelSection
from llmcausal.diagnostics.check import Facts, Finding, failed, passed, warning
from llmcausal.diagnostics.machine import one_line
from llmcausal.errors import DataError, LlmcausalError

HUB_SECONDS = 10.0
"""Longest time to wait for the hub."""
GGUF_EXPANSION = 8
"""Size of fp32 weights relative to a GGUF file with 4 bits per weight."""
MIB = 2**20


def check_model(facts: Facts) -> Finding:
    return find_model(facts.config.model)


def find_model(section: ModelSection) -> Finding:
    """Looks for a model in a package, a folder, the cache, or on the hub."""
    from llmcausal.model.gguf import PREFIX, find_gguf

    fix = "set model.name to a local folder, a hub id, or package:MODULE"
    try:
        if section.name.startswith(PREFIX):
            path = find_gguf(section.name)
            return passed(f"{path.name} in package {path.parent.name}")
        from llmcausal.model.factory import resolve_source

        source = resolve_source(section)
    except LlmcausalError as error:
        return failed(one_line(str(error)), fix)
    if Path(source).is_dir():
        if _weight_files(Path(source)):
            return _found(section, f"local folder {source}", Path(source))
        return failed(
            f"{source} has a config.json but no weights",
            "copy the model's .safetensors files there",
        )
    if (config := cached_config(section)) and _weight_files(config.parent):
        return _found(section, f"{source} is in the hub cache", config.parent)
    if _hub_is_off():
        return failed(
            f"{source} is not in the hub cache and HF_HUB_OFFLINE is set",
            "unset HF_HUB_OFFLINE, or give a local folder",
        )
    size, problem = _hub_size(source, section.revision)
    if problem:
        return failed(f"{source}: {problem[0]}", problem[1])
    return passed(f"{source} is on the hub; {(size or 0) / MIB:,.0f} MiB to download")


def _found(section: ModelSection, where: str, folder: Path) -> Finding:
    """Passes a model on this machine whose weights are stored as the settings say."""
    from llmcausal.model.prequantized import settings_in, stored_quantization

    try:
        settings = settings_in(folder)
    except LlmcausalError as error:
        return failed(one_line(str(error)), "restore this file")
    try:
        stored = stored_quantization(settings, section)
    except LlmcausalError as error:
        return failed(one_line(str(error)), "change this setting, or name another model")
    return passed(f"{where}, its weights in NF4" if stored else where)


def check_data(facts: Facts) -> Finding:
    """Reads all three splits completely."""
    from llmcausal.data.splits import load_split, load_training_splits

    try:
        splits = load_training_splits(facts.config.data)
        test = load_split(facts.config.data, "test")
    except DataError as error:
        first, *rest = error.defects or [str(error)]
        more = f" (and {len(rest)} more)" if rest else ""
        fix = "`llmcausal data validate FILE` lists every defect"
        return failed(one_line(first) + more, fix)
    counts = (len(splits.train), len(splits.validation), len(test))
    return passed("{} training, {} validation, {} test triplets".format(*counts))


def weights_bytes(section: ModelSection) -> int | None:
    """Returns the size of the model's weights on disk, or None if it is unknown."""
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
    """Returns whether the model needs no more disk space: a folder, cached, or converted."""
    from llmcausal.model.gguf import PREFIX, cache_dir, find_gguf

    if section.name.startswith(PREFIX):
        stem = find_gguf(section.name).stem
        return any((cache_dir() / "converted").glob(f"{glob.escape(stem)}-*/config.json"))
    if Path(section.name).expanduser().is_dir():
        return True
    config = cached_config(section)
    return config is not None and bool(_weight_files(config.parent))


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
    """Asks the hub for the size of the weights; returns it, or a problem and its fix."""
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
    except Exception as error:  # the transport's errors share no base class
        reason = one_line(str(error)) or type(error).__name__
        return None, (
            f"not cached, and the hub does not answer: {reason}",
            "check the network, or give a local folder",
        )
    sizes = [f.size or 0 for f in info.siblings or [] if f.rfilename.endswith(".safetensors")]
    return sum(sizes), None


def check_chat_template(facts: Facts) -> Finding:
    """Checks that the chat template renders prompts, and that generation stops at its end token."""
    from llmcausal.data.template import ChatTemplate
    from llmcausal.model.factory import load_tokenizer
    from llmcausal.model.gguf import PREFIX

    section = facts.config.model
    model = find_model(section)
    local = section.name.startswith(PREFIX) or is_stored(section)
    if model.status == "fail" or not local:
        fix = model.fix or f"fetch it: hf download {section.name}"
        return warning("not checked: no model on this machine", fix)
    fix = "set model.chat_template to a Jinja file, or use the chat variant of the model"
    try:
        override = section.chat_template
        text = override.read_text(encoding="utf-8") if override else None
        template = ChatTemplate(load_tokenizer(section), text)
        prompt = template.encode_prompt("You are helpful.", "Hello")
    except OSError as error:
        return failed(f"{error.filename}: {error.strerror}", fix)
    except LlmcausalError as error:
        return failed(one_line(str(error)), fix)
    found = f"{len(prompt)} tokens for a short prompt"
    end = template.stop_ids[0]
    name = template.tokenizer.convert_ids_to_tokens(end)
    known = end_ids(section)
    if end in known:
        return passed(f"{found}; answers end with {name}, as generation does")
    detail = (
        f"{found}; answers end with {name} ({end}), which is not among generation_config's "
        f"eos_token_id {known}: other programs would not stop there"
    )
    fix = (
        "`llmcausal export` writes it into the exported model, and `eval` stops at it; for the "
        f"original model, add {end} to eos_token_id in its generation_config.json"
    )
    return warning(detail, fix)


def end_ids(section: ModelSection) -> list[int]:
    """Returns the ids at which the stored model's generation stops."""
    from transformers import AutoConfig, GenerationConfig

    from llmcausal.model.factory import resolve_source

    source = Path(resolve_source(section))
    if not source.is_dir() and (cached := cached_config(section)):
        source = cached.parent
    if (source / "generation_config.json").is_file():
        settings = GenerationConfig.from_pretrained(str(source))
    else:
        settings = GenerationConfig.from_model_config(AutoConfig.from_pretrained(str(source)))
    ids = settings.eos_token_id
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
