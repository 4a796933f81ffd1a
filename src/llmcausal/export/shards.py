"""safetensors files, read and written one tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from llmcausal.errors import ModelError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_CODES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


@dataclass(frozen=True)
class Stored:
    """A tensor as a file holds it, and as it is to be written.

    Attributes:
        name: Its name.
        shape: Its shape.
        code: Number format in safetensors' spelling.
        file: The file that holds it.
    """

    name: str
    shape: tuple[int, ...]
    code: str
    file: Path

    @property
    def is_float(self) -> bool:
        """Whether it holds weights, not positions or masks."""
        return self.code in _CODES.values()

    def read(self) -> torch.Tensor:
        """Reads it. The file is opened anew, so that what was read before leaves memory."""
        with safe_open(self.file, framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(self.name)
            return tensor


def files_of(folder: Path) -> dict[str, list[str]]:
    """Returns the weight files of a model folder, and which tensors each holds.

    Raises:
        ModelError: If there are none, or the index is damaged.
    """
    index = folder / INDEX
    if not index.is_file():
        if not (folder / WEIGHTS).is_file():
            raise ModelError(
                f"{folder}: no {WEIGHTS} and no {INDEX}; the base model must be in safetensors "
                "format: load it with transformers and save it with save_pretrained"
            )
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            return {WEIGHTS: sorted(file.keys())}
    try:
        files: dict[str, list[str]] = {}
        for name, file_name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].items():
            if Path(file_name).name != file_name:
                raise ModelError(f"{index}: weight_map: {file_name!r} is not a plain file name")
            files.setdefault(file_name, []).append(name)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{index}: cannot be read: {error!r}") from error
    return files


def stored(folder: Path, file_name: str, names: Sequence[str]) -> list[Stored]:
    """Returns what a weight file says of its tensors, without reading them.

    Raises:
        ModelError: If the file or a tensor is missing or damaged.
    """
    path = folder / file_name
    try:
        with safe_open(path, framework="pt") as file:
            found = []
            for name in names:
                piece = file.get_slice(name)
                found.append(Stored(name, tuple(piece.get_shape()), piece.get_dtype(), path))
            return found
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error


def write_shard(
    path: Path,
    tensors: Sequence[Stored],
    dtype: torch.dtype,
    change: Callable[[Stored], torch.Tensor],
) -> None:
    """Writes a safetensors file, holding one tensor in memory at a time.

    The library's own writer takes a whole file's tensors, and copies them.

    Args:
        path: The file to write.
        tensors: What it will hold.
        dtype: Of the weights written; other tensors keep theirs.
        change: Returns a tensor's content, of the shape stored; its dtype is made right here.

    Raises:
        ModelError: If `change` returned another shape.
    """
    widest_first = sorted(tensors, key=lambda each: (-_width(each, dtype), each.name))
    with path.open("wb") as file:
        header = _header(widest_first, dtype)
        file.write(len(header).to_bytes(8, "little") + header)
        for each in widest_first:
            content = change(each)
            if tuple(content.shape) != each.shape:
                raise ModelError(
                    f"{each.name}: has shape {tuple(content.shape)}; the base has {each.shape}"
                )
            content = content.to(dtype) if each.is_float else content
            file.write(content.contiguous().reshape(-1).view(torch.uint8).numpy().data)
            del content  # else it would be held while the next one is made


def write_index(folder: Path, files: Mapping[str, Sequence[str]]) -> None:
    """Writes which file holds which tensor, where there is more than one file."""
    if list(files) == [WEIGHTS]:
        return
    total = sum((folder / name).stat().st_size for name in files)
    weight_map = {name: file for file, names in files.items() for name in names}
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2)
    (folder / INDEX).write_text(text + "\n", encoding="utf-8")


def _header(tensors: Sequence[Stored], dtype: torch.dtype) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for each in tensors:
        count = torch.Size(each.shape).numel()
        end = start + count * _width(each, dtype)
        code = _CODES[dtype] if each.is_float else each.code
        entries[each.name] = {"dtype": code, "shape": each.shape, "data_offsets": [start, end]}
        start = end
    header = json.dumps(entries, separators=(",", ":")).encode()
    return header + b" " * (-len(header) % 8)  # the format aligns the data to 8 bytes


def _width(each: Stored, dtype: torch.dtype) -> int:
    """Bytes of one element as written."""
    if each.is_float:
        return dtype.itemsize
    if each.code == "BOOL":
        return 1
    digits = each.code.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ").partition("_")[0]
    return int(digits) // 8
