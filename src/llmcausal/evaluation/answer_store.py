"""A cache of answers on disk, keyed by the content of weights and prompt."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from llmcausal.model.gguf import cache_dir

_VERSION = 1  # part of every file's name: raise it when the same weights may answer differently
_FILES = 256  # files that are kept; the longest unused are deleted
_NOT_CONTENT = frozenset(
    ("_name_or_path", "_attn_implementation", "architectures", "transformers_version", "use_cache")
)
_log = logging.getLogger(__name__)

Tokens = Sequence[int]
T = TypeVar("T")


class AnswerStore:
    """A folder with one file of answers per set of weights; None is `answers` in the user's cache.

    A file is JSON Lines, one line per batch of answers. A single write appends a line, so several
    processes may share a file, and an interrupted process leaves it sound. Damaged lines are
    skipped. A file that cannot be read or written causes one warning: the store never makes an
    evaluation fail.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_dir() / "answers"

    def shelf(self, model: Any, *, adapter: bool) -> Shelf:
        """Opens the answers of a model's present weights, with its adapter or without."""
        return self.open(weights_fingerprint(model, adapter=adapter), _read)

    def open(self, identity: str, read: Callable[[Path], dict[str, T]]) -> Kept[T]:
        path = self.folder / f"{identity}-v{_VERSION}.jsonl"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
            files = sorted(self.folder.glob("*.jsonl"), key=lambda file: file.stat().st_mtime)
            for file in files[:-_FILES]:
                file.unlink(missing_ok=True)
            return Kept(path, read(path))
        except OSError as error:
            _log.warning("%s: no answers are kept: %s", path, error.strerror or error)
            return Kept(None, {})


class Kept(Generic[T]):
    """A model's answers, by key; `path` is the file to append to, None keeps nothing on disk."""

    def __init__(self, path: Path | None, answers: dict[str, T]) -> None:
        self._path = path
        self._answers = answers

    def get(self, key: str) -> T | None:
        return self._answers.get(key)

    def add(self, answers: Mapping[str, T]) -> None:
        """Keeps answers, on disk before it returns."""
        self._answers.update(answers)
        if self._path is None:
            return
        # The line feed in front ends a line that a kill or a full disk cut off.
        line = b"\n" + json.dumps(answers, separators=(",", ":")).encode() + b"\n"
        try:
            _append(self._path, line)
        except OSError as error:
            _log.warning("%s: no more answers are kept: %s", self._path, error.strerror or error)
            self._path = None


Shelf = Kept[list[int]]
"""One set of weights' answers, as their new tokens."""


def answer_key(prompt: Tokens, stop_ids: Iterable[int], max_new_tokens: int) -> str:
    """Hashes everything that decides an answer, besides the weights."""
    content = json.dumps([list(prompt), sorted(set(stop_ids)), max_new_tokens])
    return hashlib.sha256(content.encode()).hexdigest()


def weights_fingerprint(model: Any, *, adapter: bool) -> str:
    """Hashes everything that decides a model's logits: stored weights, adapter, dtypes, config.

    The base has the same fingerprint with an adapter that is off as without one.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    digest = hashlib.sha256()
    config = {k: v for k, v in base.config.to_dict().items() if k not in _NOT_CONTENT}
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for name, module in base.named_modules():
        if hasattr(module, "compute_dtype"):
            digest.update(f"{_bare(name)} {module.compute_dtype}".encode())
        if adapter and hasattr(module, "lora_A"):
            on = "" if module.disable_adapters else module.active_adapters
            facts = (module.scaling, on, sorted(map(str, module.lora_variant.items())))
            digest.update(f"{name} {facts}".encode())
    for name, tensor in sorted(base.state_dict().items()):
        if adapter or ".lora_" not in name:
            digest.update(f"{_bare(name)} {tensor.dtype} {tuple(tensor.shape)}".encode())
            content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(content.numpy().data)
    return digest.hexdigest()


def _bare(name: str) -> str:
    return name.replace(".base_layer", "")


def _read(path: Path) -> dict[str, list[int]]:
    def is_answer(value: object) -> bool:
        return isinstance(value, list) and bool(value) and all(type(v) is int for v in value)

    return {key: value for row in rows_of(path) for key, value in row.items() if is_answer(value)}


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """Yields a file's sound rows in order."""
    for line in path.read_bytes().splitlines():
        with suppress(ValueError, RecursionError):  # ValueError also if it is not UTF-8
            row = json.loads(line)
            if isinstance(row, dict):
                yield row


def _append(path: Path, line: bytes) -> None:
    # One unbuffered write to a file in append mode: lines of other processes stay whole.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o600)
    try:
        written = os.write(descriptor, line)
    finally:
        os.close(descriptor)
    if written != len(line):
        raise OSError(f"only {written} of {len(line)} bytes were written")
