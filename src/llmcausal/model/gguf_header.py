"""Checks a GGUF file's header before a library believes it: every count and size in it may lie."""

from __future__ import annotations

import math
import os
import struct
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
    """Checks that all that the header announces is in the file, and fits together.

    Raises:
        ModelError: Naming what is wrong and where.
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
        tensors = self._count("Q", "tensors", _SMALLEST_TENSOR)
        for _ in range(self._count("Q", "entries", _SMALLEST_ENTRY)):
            self._entry()
        largest = self._tensors(tensors)
        self._check_sizes(tensors, largest)

    def _entry(self) -> None:
        key = self._name("key")
        kind = self._unpack("I")
        value = self._skip_value(key, kind)
        if value is not None:
            self._numbers[key] = value

    def _skip_value(self, key: str, kind: int) -> int | None:
        if kind == _STRING:
            self._skip(self._count("Q", f"bytes of {key}", 1))
        elif kind == _ARRAY:
            inner = self._unpack("I")
            if inner == _STRING:
                for _ in range(self._count("Q", f"texts in {key}", 8)):
                    self._skip(self._count("Q", f"bytes in {key}", 1))
            elif inner in _SCALARS:
                size = struct.calcsize(_SCALARS[inner])
                self._skip(size * self._count("Q", f"values of {key}", size))
            else:
                raise self._wrong(f"{key}: a list of unsupported type {inner}")
        elif kind in _SCALARS:
            value = self._unpack(_SCALARS[kind])
            return value if isinstance(value, int) else None
        else:
            raise self._wrong(f"{key}: unknown type {kind}")
        return None

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
        """Refuses sizes of a model far larger than the weights: they would be filled with noise."""
        for key, value in self._numbers.items():
            if key.startswith(("general.", "tokenizer.")) or key.endswith(_NOT_SIZES):
                continue
            most = tensors if key.endswith("block_count") else largest
            if not 0 <= value <= most:
                raise self._wrong(f"{key} is {value}, but no tensor is so large")

    def _name(self, kind: str) -> str:
        length = self._count("Q", f"bytes of a {kind}'s name", 1)
        if length > _MOST_NAME_BYTES:
            raise self._wrong(f"a {kind}'s name of {length} bytes")
        return ascii(self._file.read(length).decode("utf-8", "replace"))[1:-1]

    def _count(self, form: str, what: str, bytes_each: int) -> int:
        """Reads how many there are; refuses more than the rest of the file can hold."""
        count = self._unpack(form)
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
