"""What a folder for transformers holds beside the weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

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


def tokens_by(tokenizer: Any) -> Callable[[list[dict[str, str]]], list[int]]:
    """Returns how a tokenizer renders a conversation with its own chat template."""

    def tokens_of(messages: list[dict[str, str]]) -> list[int]:
        ids: list[int] = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )
        return ids

    return tokens_of
