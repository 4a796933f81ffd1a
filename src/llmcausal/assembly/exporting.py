"""`export`: a checkpoint as what people deploy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from llmcausal.assembly.build import load_template
from llmcausal.config import load_config
from llmcausal.export import EXPORTERS
from llmcausal.export.source import ExportSource
from llmcausal.model.factory import load_model, quiet_libraries, resolve_source
from llmcausal.train.checkpoint import verify
from llmcausal.train.snapshot import CONFIG
from llmcausal.ui.status import status


def export_checkpoint(checkpoint: Path, *, target: str, out: Path) -> dict[str, Any]:
    """Exports a verified checkpoint and returns the report of the artifact's own check.

    Raises:
        CheckpointError: If the checkpoint is damaged.
        ConfigError: If there is no such target.
        UsageError: If `out` is not empty.
    """
    exporter = EXPORTERS.load(target)
    verify(checkpoint)
    config = load_config(checkpoint / CONFIG)
    # Merging and checking start from the 16-bit or 32-bit weights: 4-bit merges drift.
    section = config.model.model_copy(update={"quantization": "none"})

    def load_base() -> PreTrainedModel:
        return load_model(section).model

    with status(f"Exporting {checkpoint} as {target}"), quiet_libraries():
        source = ExportSource(
            adapter_dir=checkpoint,
            load_base=load_base,
            template=load_template(config),
            base_name=resolve_source(config.model),
            base_revision=config.model.revision,
            trust_remote_code=config.model.trust_remote_code,
        )
        report: dict[str, Any] = exporter(source, out)
    return report
