"""A checkpoint folder with a trained-looking adapter, and its base model saved on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def base_dir(tmp_path: Path, tiny_llama: Callable[..., Any], chatml_tokenizer: Any) -> Path:
    folder = tmp_path / "base"
    tiny_llama(seed=0).save_pretrained(folder)
    chatml_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path, base_dir: Path) -> Path:
    """Written as training writes it: other files lie beside the adapter."""
    import torch
    from transformers import AutoModelForCausalLM

    from llmcausal.config import LoraSection
    from llmcausal.model.lora import add_lora

    base = AutoModelForCausalLM.from_pretrained(base_dir)
    model = add_lora(base, LoraSection(rank=4, target_modules=("q_proj", "down_proj")), seed=1)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3, generator=generator)
    folder = tmp_path / "checkpoint-7"
    model.save_pretrained(folder)
    (folder / "training_state.pt").write_bytes(b"not for sharing")
    return folder


@pytest.fixture
def source(checkpoint: Path, base_dir: Path, chatml_tokenizer: Any) -> Any:
    from transformers import AutoModelForCausalLM

    from llmcausal.data.template import ChatTemplate
    from llmcausal.export.source import ExportSource

    def load_base() -> Any:
        base = AutoModelForCausalLM.from_pretrained(base_dir)
        base.config.use_cache = False  # as the factory leaves it
        return base

    return ExportSource(checkpoint, load_base, ChatTemplate(chatml_tokenizer), str(base_dir))
