"""What a folder for transformers holds beside the weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig

from llmcausal.export.check import NAMES, Loaded
from llmcausal.export.consumers import TransformersModel
from llmcausal.export.source import ExportSource


def save_settings(source: ExportSource, folder: Path) -> None:
    """Writes tokenizer, chat template and generation settings."""
    source.generation_config().save_pretrained(folder)
    source.save_tokenizer(folder)


def settings_defects(settings: GenerationConfig, source: ExportSource) -> list[str]:
    """Says where generation settings end answers otherwise than training did."""
    wanted = list(source.template.stop_ids)
    if settings.eos_token_id == wanted:
        return []
    return [f"it stops at {settings.eos_token_id}, not at {wanted}"]


def loaded_from(
    source: ExportSource, folder: Path, model: Any, dtype: torch.dtype, program: str
) -> Loaded:
    """Returns a model that `program` loaded from the folder, with what else the folder says."""
    settings = GenerationConfig.from_pretrained(str(folder))
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=source.trust_remote_code)
    runs = TransformersModel(model.eval(), settings, program)
    defects = settings_defects(settings, source)
    return Loaded(runs, runs, tokens_by(tokenizer), NAMES[dtype], defects)


def tokens_by(tokenizer: Any) -> Callable[[list[dict[str, str]]], list[int]]:
    """Returns how a tokenizer renders a conversation with its own chat template."""

    def tokens_of(messages: list[dict[str, str]]) -> list[int]:
        ids: list[int] = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )
        return ids

    return tokens_of
