"""The steps that every export shares: reference, files, check, model card."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from llmcausal.errors import DoesNotFitError
from llmcausal.export.check import Behaviour, Loaded, check, observe
from llmcausal.export.consumers import TransformersModel
from llmcausal.export.folder import new_folder
from llmcausal.export.model_card import Kind, write_model_card
from llmcausal.export.options import ExportOptions
from llmcausal.export.shards import files_of, stored
from llmcausal.export.source import ExportSource
from llmcausal.windows import in_wsl, more_wsl_memory

REPORT = "export_check.json"
GIB = 2**30
WORKING_BYTES = GIB // 2
"""Host memory for the activations and caches of the check's short prompts."""


def make_artifact(
    source: ExportSource,
    out: Path,
    options: ExportOptions,
    kind: Kind,
    *,
    write: Callable[[Path], dict[str, Any]],
    load: Callable[[Path], Loaded],
) -> dict[str, Any]:
    """Writes an artifact, loads it back, compares it and describes it; all of it or nothing.

    Args:
        source: What to export.
        out: New folder.
        options: Whether to check, among others.
        kind: The export format.
        write: Puts the files into a folder; returns facts for the report.
        load: Loads them as their users will.

    Returns:
        The report, also written to `export_check.json`.

    Raises:
        UsageError: If `out` is not empty.
        ModelError: If the base is quantized, or the artifact differs from the trained model.
        CheckpointError: If the checkpoint holds no adapter.
        DoesNotFitError: If the comparison needs more host memory than is available.
        StorageError: If the disk refuses.
    """
    with new_folder(out) as folder:
        source.adapter_config()
        source.refuse_quantized_base()
        if options.check:
            _refuse_too_large(source, kind.name)
        reference = _reference(source) if options.check else None
        gc.collect()  # the reference model's modules refer to one another
        facts = write(folder)
        report: dict[str, Any] = {"format": kind.name, **facts}
        if reference is None:
            report["checked"] = False
        else:
            report |= check(source, load(folder), reference)
        text = json.dumps(report, ensure_ascii=False, allow_nan=False, indent=2)
        (folder / REPORT).write_text(text + "\n", encoding="utf-8")
        write_model_card(folder, source, kind, report)
    return report


def _refuse_too_large(source: ExportSource, kind: str) -> None:
    """Refuses the comparison where the whole model does not fit in host memory.

    The trained model and the exported one are loaded in turn, each with the base's numbers.
    """
    tensors = (
        tensor
        for name, names in files_of(source.base_folder).items()
        for tensor in stored(source.base_folder, name, names)
    )
    numbers = sum(math.prod(tensor.shape) for tensor in tensors)
    needed = numbers * source.dtype.itemsize + WORKING_BYTES
    free = psutil.virtual_memory().available
    if needed > free:
        raise DoesNotFitError(
            f"{source.base_name}: comparing the {kind} export with the trained model needs "
            f"{needed / GIB:.1f} GiB of host memory, and {free / GIB:.1f} GiB are available. "
            "--no-check writes the export without the comparison, one tensor at a time; or "
            f"{more_wsl_memory() if in_wsl() else 'close other programs'}."
        )


def _reference(source: ExportSource) -> Behaviour:
    """What the trained model does: the unquantized base with the adapter beside it (W + BA).

    Also for an adapter trained on a 4-bit base: merging in 4 bit would round the update away.
    """
    trained = TransformersModel(source.load(), source.generation_config())
    return observe(source, trained, trained)
