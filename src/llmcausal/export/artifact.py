"""The steps that every export shares: reference, files, check, model card."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmcausal.export.check import Behaviour, Loaded, check, observe
from llmcausal.export.consumers import TransformersModel
from llmcausal.export.folder import new_folder
from llmcausal.export.model_card import Kind, write_model_card
from llmcausal.export.options import ExportOptions
from llmcausal.export.source import ExportSource

REPORT = "export_check.json"


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
        StorageError: If the disk refuses.
    """
    with new_folder(out) as folder:
        source.adapter_config()
        source.refuse_quantized_base()
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


def _reference(source: ExportSource) -> Behaviour:
    """What the trained model does: the unquantized base with the adapter beside it (W + BA).

    Also for an adapter trained on a 4-bit base: merging in 4 bit would round the update away.
    """
    trained = TransformersModel(source.load(), source.generation_config())
    return observe(source, trained, trained)
