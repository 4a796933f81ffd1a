"""Export target `merged`: base and adapter as one unquantized model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM

from llmcausal.export.check import check_artifact, observe
from llmcausal.export.folder import new_folder
from llmcausal.export.model_card import write_model_card
from llmcausal.export.source import ExportSource


def export_merged(source: ExportSource, out: Path) -> dict[str, Any]:
    """Adds the adapter's update to the 16-bit or 32-bit base weights and writes the sum.

    The reference is the unquantized base with the adapter beside it (W + BA), also for an
    adapter trained on a 4-bit base: merging in 4 bit would round the update away.

    Returns:
        The export check's report.

    Raises:
        UsageError: If `out` is not empty.
        ModelError: If the base is quantized, or the artifact, loaded
            back, differs from the trained model.
        StorageError: If the disk refuses.
    """
    with new_folder(out) as folder:
        trained = source.load()
        settings = source.generation_config(trained)
        reference = observe(trained, source.template, settings)
        device = trained.device

        merged = trained.merge_and_unload()
        del trained
        merged.generation_config = settings
        merged.config.use_cache = True
        merged.save_pretrained(folder)
        source.save_tokenizer(folder)
        del merged

        exported = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", trust_remote_code=source.trust_remote_code
        ).to(device)
        exported.eval()
        report = check_artifact(
            folder,
            exported,
            reference,
            source.template,
            trust_remote_code=source.trust_remote_code,
        )
        write_model_card(folder, source, "merged", report)
    return report
