"""Export target `merged`: base and adapter as one unquantized model."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM

from llmcausal.export.artifact import make_artifact
from llmcausal.export.check import Loaded
from llmcausal.export.merging import merge
from llmcausal.export.model_card import MERGED
from llmcausal.export.options import ExportOptions
from llmcausal.export.source import ExportSource
from llmcausal.export.transformers_folder import loaded_from, save_settings


def export_merged(source: ExportSource, out: Path, options: ExportOptions) -> dict[str, Any]:
    """Adds the adapter's update to the 16-bit or 32-bit base weights and writes the sum.

    Returns:
        The report of `make_artifact`, whose errors it raises.
    """
    return make_artifact(
        source,
        out,
        options,
        MERGED,
        write=partial(_write, source),
        load=partial(_load, source),
    )


def _write(source: ExportSource, folder: Path) -> dict[str, Any]:
    write_merged_weights(source, folder)
    save_settings(source, folder)
    return {}


def write_merged_weights(source: ExportSource, folder: Path) -> None:
    """Writes the merged weights with the configuration that goes with them."""
    merge(source, folder)
    source.model_config().save_pretrained(folder)
    if source.trust_remote_code:
        for file in source.base_folder.glob("*.py"):
            shutil.copyfile(file, folder / file.name)


def _load(source: ExportSource, folder: Path) -> Loaded:
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", trust_remote_code=source.trust_remote_code
    )
    return loaded_from(source, folder, model, model.dtype, "transformers")
