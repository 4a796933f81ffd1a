"""Export target `adapter`: a PEFT folder for the base model, which is also a checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from peft import PeftConfig
from transformers import AutoModelForCausalLM

from llmcausal.export.artifact import ExportOptions, make_artifact
from llmcausal.export.check import Loaded, loaded_from, save_settings
from llmcausal.export.source import ExportSource
from llmcausal.model.lora import ADAPTER_WEIGHTS, load_adapter
from llmcausal.train.checkpoint import MANIFEST, manifest_of


def export_adapter(source: ExportSource, out: Path, options: ExportOptions) -> dict[str, Any]:
    """Writes the adapter with tokenizer, chat template, end-of-turn ids and a model card.

    With `source.parts` the folder is a checkpoint too, and has the detector.
    """
    return make_artifact(source, out, options, "adapter", write=_write, load=_load)


def _write(source: ExportSource, folder: Path) -> dict[str, Any]:
    config = source.adapter_config()
    config.base_model_name_or_path = source.base_for_consumers()
    config.revision = source.base_revision
    config.inference_mode = True
    config.save_pretrained(str(folder))
    shutil.copyfile(source.adapter_dir / ADAPTER_WEIGHTS, folder / ADAPTER_WEIGHTS)
    save_settings(source, folder)
    if source.parts is None:
        return {"rank": config.r}
    for name, content in source.parts.files.items():
        (folder / name).write_bytes(content)
    hashed = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    (folder / MANIFEST).write_bytes(manifest_of(hashed, source.parts.facts))
    return {"rank": config.r, "detector": source.parts.detector}


def _load(source: ExportSource, folder: Path) -> Loaded:
    written = PeftConfig.from_pretrained(str(folder))
    if source.nf4 is None:
        base: Any = AutoModelForCausalLM.from_pretrained(
            written.base_model_name_or_path,
            revision=written.revision,
            dtype=source.dtype,
            trust_remote_code=source.trust_remote_code,
        )
    else:  # by itself, transformers takes the stored compute dtype, and on some CPUs rounds scales
        base = source.load_base()
    model = load_adapter(base, folder)
    return loaded_from(source, folder, model, source.dtype, "transformers and peft")
