"""A GGUF file that lies is refused with the reason before a library believes it."""

from __future__ import annotations

import os
import stat
import struct
import sys
from pathlib import Path

import numpy
import pytest
from gguf import GGUFWriter

from llmcausal.config import ModelSection
from llmcausal.errors import ModelError
from llmcausal.model.factory import resolve_source
from llmcausal.model.gguf_header import check_header

KEY = "llama.embedding_length"


def write(path: Path, *, shape: tuple[int, ...] = (4, 8), **numbers: int) -> Path:
    writer = GGUFWriter(path, "llama")
    writer.add_uint32(KEY, numbers.get("embedding_length", 8))
    writer.add_uint32("llama.block_count", numbers.get("block_count", 1))
    writer.add_uint32("llama.context_length", 2**20)
    writer.add_token_list(["a", "bc"])
    writer.add_array("llama.some_list", [1, 2, 3])
    writer.add_tensor("token_embd.weight", numpy.zeros(shape, numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def changed(path: Path, before: bytes, after: bytes) -> Path:
    content = path.read_bytes()
    assert content.count(before) == 1
    path.write_bytes(content.replace(before, after))
    return path


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    return write(tmp_path / "m.gguf")


def test_a_sound_file_passes(gguf: Path) -> None:
    check_header(gguf)


LIES = {
    "magic": (b"GGUF\3", b"GGML\3", "does not begin with GGUF"),
    "version": (b"GGUF\3\0\0\0", b"GGUF\x63\0\0\0", "version 99, not 2 or 3"),
    "tensors": (struct.pack("<QQ", 1, 6), struct.pack("<QQ", 2**60, 6), "tensors, more than the"),
    "entries": (struct.pack("<QQ", 1, 6), struct.pack("<QQ", 1, 2**63), "entries, more than the"),
    "key": (text(KEY), struct.pack("<Q", 2**60) + KEY.encode(), "bytes of a key's name, more"),
    "text": (text("bc"), struct.pack("<Q", 2**60) + b"bc", r"bytes in tokenizer.*, more than"),
    "list": (
        struct.pack("<IQI", 5, 3, 1),
        struct.pack("<IQI", 5, 2**62, 1),
        "values of llama.some_list, more than the file",
    ),
    "lists in lists": (
        struct.pack("<IQI", 5, 3, 1),
        struct.pack("<IQI", 9, 3, 1),
        "llama.some_list: a list of unsupported type 9",
    ),
    "type": (text(KEY) + b"\4", text(KEY) + b"\x40", "llama.embedding_length: unknown type 64"),
    "size": (
        text(KEY) + struct.pack("<II", 4, 8),
        text(KEY) + struct.pack("<II", 4, 2**31),
        "llama.embedding_length is 2147483648, but no tensor is so large",
    ),
    "negative size": (
        text(KEY) + struct.pack("<II", 4, 8),
        text(KEY) + struct.pack("<Ii", 5, -8),
        "llama.embedding_length is -8",
    ),
    "dimensions": (
        text("token_embd.weight") + struct.pack("<I", 2),
        text("token_embd.weight") + struct.pack("<I", 2**31),
        "token_embd.weight: 2147483648 dimensions",
    ),
    "shape": (
        struct.pack("<IQQ", 2, 8, 4),
        struct.pack("<IQQ", 2, 8, 2**60),
        "tensors do not fit into the file",
    ),
    "offset": (
        struct.pack("<QQIQ", 8, 4, 0, 0),
        struct.pack("<QQIQ", 8, 4, 0, 2**63),
        "tensors do not fit into the file",
    ),
    "tensor type": (
        struct.pack("<QQIQ", 8, 4, 0, 0),
        struct.pack("<QQIQ", 8, 4, 999, 0),
        "token_embd.weight: unknown type 999",
    ),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_named(lie: str, gguf: Path) -> None:
    before, after, reason = LIES[lie]
    with pytest.raises(ModelError, match=rf"m\.gguf: byte \d+: not a sound GGUF file: .*{reason}"):
        check_header(changed(gguf, before, after))


def test_a_file_that_is_cut_off_anywhere_is_refused(gguf: Path) -> None:
    content = gguf.read_bytes()
    for size in range(0, len(content) - 1, 7):
        os.truncate(gguf, size)
        with pytest.raises(ModelError, match="not a sound GGUF file"):
            check_header(gguf)
        gguf.write_bytes(content)


def test_more_layers_than_tensors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"llama\.block_count is 2000000000"):
        check_header(write(tmp_path / "m.gguf", block_count=2_000_000_000))


@pytest.mark.parametrize("sound_header", [True, False])
def test_a_packaged_file_that_lies_is_a_message(
    sound_header: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the header is sound, and the libraries stumble over what it describes."""
    package = tmp_path / "with_gguf"
    package.mkdir()
    (package / "__init__.py").touch()
    path = write(package / "m.gguf")
    if not sound_header:
        changed(path, *LIES["tensors"][:2])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LLMCAUSAL_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ModelError, match=r"m\.gguf: .*(cannot be converted|not a sound)"):
        resolve_source(ModelSection(name="package:with_gguf"))
    sys.modules.pop("with_gguf", None)
    left = list((tmp_path / "cache").rglob("*")) if (tmp_path / "cache").exists() else []
    assert [each.name for each in left] == (["converted"] if sound_header else [])
    if os.name == "posix":
        assert all(stat.S_IMODE(each.stat().st_mode) == 0o700 for each in left)
