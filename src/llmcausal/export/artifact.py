"""Every export: a folder, complete or absent on disk, with a report and a model card."""

from __future__ import annotations

import errno
import gc
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from jinja2 import Environment, PackageLoader, StrictUndefined
from safetensors import SafetensorError

from llmcausal import __version__
from llmcausal.errors import DoesNotFitError, StorageError, UsageError
from llmcausal.export.check import Loaded, TransformersModel, check, observe
from llmcausal.export.source import ExportSource, weights_of
from llmcausal.launched import in_wsl, more_wsl_memory


@dataclass(frozen=True)
class ExportOptions:
    quantize: str = "f16"  # GGUF number format, as llama.cpp names it, in lower case
    llama_cpp: Path | None = None  # a llama.cpp checkout; None looks for one
    check: bool = True  # load the artifact back and compare it; needs memory for the whole model


REPORT = "export_check.json"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
GIB = 2**30
WORKING_BYTES = GIB // 2
"""Host memory for the activations and caches of the check's short prompts."""


def make_artifact(
    source: ExportSource,
    out: Path,
    options: ExportOptions,
    kind: str,
    *,
    write: Callable[[ExportSource, Path], dict[str, Any]],
    load: Callable[[ExportSource, Path], Loaded],
) -> dict[str, Any]:
    """Writes an artifact, loads it back, compares it and describes it. An error leaves nothing.

    Args:
        write: Writes the files into a folder; returns facts for the report.
        load: Loads them as their users will.

    Returns:
        The report, also written to `export_check.json`.

    Raises:
        UsageError: If `out` is not empty.
        ModelError: If the base is quantized otherwise than in NF4, or the artifact differs from the
            trained model.
        CheckpointError: If the checkpoint has no adapter.
        DoesNotFitError: If the comparison needs more host memory than is available.
        StorageError: If a write fails.
    """
    with new_folder(out) as folder:
        source.adapter_config()
        dequantized = source.nf4 is not None and kind != "adapter"
        reference = None
        if options.check:
            _refuse_too_large(source, kind)
            # The reference is the base as stored with a separate adapter (W + BA), even if
            # training quantized the base: merging in 4 bit would round the update away.
            trained = TransformersModel(source.load(), source.generation_config())
            reference = observe(source, trained, trained)
            del trained
        gc.collect()  # the reference model's modules form reference cycles
        report: dict[str, Any] = {"format": kind, **write(source, folder)}
        if dequantized:
            report["base_weights"] = "dequantized from NF4"
        if reference is None:
            report["checked"] = False
        else:
            report |= check(source, load(source, folder), reference)
        text = json.dumps(report, ensure_ascii=False, allow_nan=False, indent=2)
        (folder / REPORT).write_text(text + "\n", encoding="utf-8")
        write_model_card(folder, source, report)
    return report


def _refuse_too_large(source: ExportSource, kind: str) -> None:
    """Refuses the comparison if host memory is too small for one model; it never loads two."""
    needed = WORKING_BYTES
    for tensors in weights_of(source.base_folder).values():
        for each in tensors:
            packed = kind == "adapter"  # both sides of that comparison keep weights in 4 bits
            width = source.dtype.itemsize
            needed += each.loaded_bytes(source.dtype) if packed else each.numbers * width
    free = psutil.virtual_memory().available
    if needed > free:
        raise DoesNotFitError(
            f"{source.base_name}: comparing the {kind} export with the trained model needs "
            f"{needed / GIB:.1f} GiB of host memory, and {free / GIB:.1f} GiB are available. "
            "--no-check writes the export without the comparison, one tensor at a time; or "
            f"{more_wsl_memory() if in_wsl() else 'close other programs'}."
        )


def write_model_card(folder: Path, source: ExportSource, report: Mapping[str, Any]) -> None:
    templates = Environment(
        loader=PackageLoader("llmcausal.export"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {"json": json.dumps, "code": _code}
    base = source.base_for_consumers()
    if report["format"] != "adapter" and not HUB_ID.fullmatch(base):
        base = Path(base).name  # these formats need no folder of this machine
    card = templates.get_template("model_card.md.jinja").render(
        kind=report["format"],
        version=__version__,
        base=base,
        on_hub=HUB_ID.fullmatch(base),
        revision=source.base_revision,
        folds_system=source.template.folds_system,
        training=source.training,
        spans=source.spans and report["format"] != "ollama",  # its Modelfile renders one turn
        report=report,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _code(text: str) -> str:
    """Keeps a value inside its code span and table cell."""
    return " ".join(text.replace("`", "").replace("|", "/").split())


_DISK_ERRORS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
}


def refuse_existing(out: Path) -> None:
    """Raises a `UsageError` if `out` is a file, or a folder that is not empty."""
    if out.is_dir():
        if any(out.iterdir()):
            raise UsageError(f"{out}: is not empty; give --out a new folder, or empty this one")
    elif out.exists() or out.is_symlink():
        raise UsageError(f"{out}: exists and is not a folder; give --out a new folder")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yields a temporary sibling; flushes it and renames it to `out` if the block succeeds.

    Raises:
        UsageError: If `out` exists and is not an empty folder.
        StorageError: If a write fails; no file remains.
    """
    refuse_existing(out)
    work = out.parent / f".{out.name}.{os.getpid()}.partial"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        yield work
        for file in work.rglob("*"):
            if file.is_file():
                # safetensors writes files that only their owner may read.
                file.chmod(work.stat().st_mode & 0o666)
                with file.open("rb+") as stream:
                    os.fsync(stream.fileno())
        refuse_existing(out)
        if out.exists():
            out.rmdir()
        work.rename(out)
    except OSError as error:
        # Libraries raise OSError for a missing model, too; these are the disk's own errors.
        if error.errno in _DISK_ERRORS:
            raise StorageError(f"{out}: cannot be written: {error.strerror}") from error
        raise
    except SafetensorError as error:
        raise StorageError(f"{out}: weights cannot be written: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
