"""Export target `adapter`: a PEFT folder to put on the base model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from peft import PeftConfig
from transformers import AutoModelForCausalLM

from llmcausal.export.check import check_artifact, observe
from llmcausal.export.folder import new_folder
from llmcausal.export.model_card import write_model_card
from llmcausal.export.source import ADAPTER_WEIGHTS, ExportSource
from llmcausal.model.lora import load_adapter


def export_adapter(source: ExportSource, out: Path) -> dict[str, Any]:
    """Writes the adapter with tokenizer, chat template, end-of-turn ids and a model card.

    Returns:
        The export check's report.

    Raises:
        UsageError: If `out` is not empty.
        ModelError: If the artifact, loaded back, differs from the trained model.
        StorageError: If the disk refuses.
    """
    with new_folder(out) as folder:
        trained = source.load()
        settings = source.generation_config(trained)
        reference = observe(trained, source.template, settings)
        dtype, device = trained.dtype, trained.device
        del trained

        config = PeftConfig.from_pretrained(str(source.adapter_dir))
        config.base_model_name_or_path = source.base_for_consumers()
        config.revision = source.base_revision
        config.inference_mode = True
        config.save_pretrained(str(folder))
        shutil.copyfile(source.adapter_dir / ADAPTER_WEIGHTS, folder / ADAPTER_WEIGHTS)
        settings.save_pretrained(folder)
        source.save_tokenizer(folder)

        written = PeftConfig.from_pretrained(str(folder))
        base = AutoModelForCausalLM.from_pretrained(
            written.base_model_name_or_path,
            revision=written.revision,
            dtype=dtype,
            trust_remote_code=source.trust_remote_code,
        ).to(device)
        exported = load_adapter(base, folder).eval()
        report = check_artifact(
            folder,
            exported,
            reference,
            source.template,
            trust_remote_code=source.trust_remote_code,
        )
        write_model_card(folder, source, "adapter", report)
    return report
