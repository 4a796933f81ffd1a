"""A tiny model with an adapter that changes its answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def template(chatml_tokenizer: Any) -> Any:
    from llmcausal.data.template import ChatTemplate

    return ChatTemplate(chatml_tokenizer)


@pytest.fixture
def peft_model(tiny_llama: Callable[..., Any]) -> Any:
    import torch

    from llmcausal.config import LoraSection
    from llmcausal.model.lora import add_lora

    section = LoraSection(rank=4, target_modules=("q_proj", "v_proj"))
    model = add_lora(tiny_llama(seed=0), section, seed=1)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.5, generator=generator)
    return model
