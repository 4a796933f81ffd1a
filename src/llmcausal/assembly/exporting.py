"""`export`: a checkpoint as what people deploy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from llmcausal.assembly.evaluating import check_template, without_code
from llmcausal.assembly.prepare import load_template
from llmcausal.config import RunConfig
from llmcausal.export import EXPORTERS
from llmcausal.export.source import ExportSource
from llmcausal.model.device import choose_device
from llmcausal.model.factory import load_model, quiet_libraries, resolve_source
from llmcausal.profile import load_config
from llmcausal.train.checkpoint import verify
from llmcausal.train.snapshot import CONFIG
from llmcausal.ui.status import status


def export_checkpoint(
    checkpoint: Path, *, target: str, out: Path, trust_remote_code: bool
) -> dict[str, Any]:
    """Exports a verified checkpoint and returns the report of the artifact's own check.

    Args:
        checkpoint: Checkpoint folder.
        target: Name of an exporter.
        out: New folder for the artifact.
        trust_remote_code: Run code that comes with the model.

    Raises:
        CheckpointError: If the checkpoint is damaged, or its template is not the one at hand.
        ConfigError: If there is no such target.
        UsageError: If `out` is not empty.
    """
    exporter = EXPORTERS.load(target)
    manifest = verify(checkpoint)
    config = without_code(load_config(checkpoint / CONFIG), trust_remote_code)
    template = load_template(config)
    check_template(manifest, template, checkpoint)
    # Merging and checking start from the 16-bit or 32-bit weights, since 4-bit merges drift, and
    # in host memory: on the card that trained it in 4 bit the whole model does not fit.
    section = config.model.model_copy(
        update={"quantization": "none", "device": "cpu", "precision": _precision(config)}
    )

    def load_base() -> PreTrainedModel:
        return load_model(section).model

    with status(f"Exporting {checkpoint} as {target}"), quiet_libraries():
        source = ExportSource(
            adapter_dir=checkpoint,
            load_base=load_base,
            template=template,
            base_name=resolve_source(config.model),
            base_revision=config.model.revision,
            trust_remote_code=config.model.trust_remote_code,
        )
        report: dict[str, Any] = exporter(source, out)
    return report


def _precision(config: RunConfig) -> str:
    """Half precision in host memory is bf16: CPUs compute no fp16."""
    precision = config.model.precision
    if precision == "auto":
        return "fp32" if choose_device(config.model.device).type == "cpu" else "bf16"
    return "bf16" if precision == "fp16" else precision
