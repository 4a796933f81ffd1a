"""Random token triplets and tiny random models of several architectures."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

VOCABULARY = 97


@pytest.fixture(scope="module")
def token_triplets() -> Callable[..., list[Any]]:
    """Makes encoded triplets: `token_triplets(count, shared, own, seed)`.

    The first `shared` prompt tokens are the same in all members of all triplets, the next `own`
    tokens (on average) are each member's own; every triplet has responses of 2 to 6 tokens.
    """
    from llmcausal.data.tokenization import EncodedMember, EncodedTriplet

    def make(count: int, shared: int, own: int, seed: int) -> list[Any]:
        rng = random.Random(seed)

        def tokens(length: int) -> tuple[int, ...]:
            return tuple(rng.randrange(VOCABULARY) for _ in range(length))

        prefix = tokens(shared)

        def member(scored: bool) -> Any:
            length = max(1, own + rng.randint(-own // 2, own // 2))
            return EncodedMember(
                prefix + tokens(length), tokens(rng.randint(2, 6)) if scored else ()
            )

        return [
            EncodedTriplet(str(index), member(True), member(False), member(True))
            for index in range(count)
        ]

    return make


@pytest.fixture(scope="module")
def random_model() -> Callable[..., Any]:
    """Makes a tiny random model with random LoRA: `random_model("llama", dtype)`.

    `exact_norms` computes norms in the model's dtype: transformers' own round to fp32 inside, once
    per member in separate passes and once per shared token in a tree, so that fp64 gradients
    can agree to no better than fp32's 6e-8.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from llmcausal.config import LoraSection
    from llmcausal.model.lora import add_lora
    from llmcausal.model.tree_attention import TREE_ATTENTION

    small = {
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
    }
    kinds: dict[str, dict[str, Any]] = {
        "llama": {"tie_word_embeddings": False},
        "llama_tied": {"model_type": "llama", "tie_word_embeddings": True},
        "qwen2": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
        "qwen3": {"head_dim": 12},
        "mistral": {"sliding_window": 8},
        "gemma2": {"head_dim": 12, "sliding_window": 8, "attention": "eager"},
        "gemma3_text": {"head_dim": 12, "sliding_window": 8},
    }

    def make(
        kind: str, dtype: torch.dtype, seed: int = 0, *, exact_norms: bool = False, **changes: Any
    ) -> Any:
        settings = {"model_type": kind, **small, **kinds[kind], **changes}
        attention = settings.pop("attention", TREE_ATTENTION)
        config = AutoConfig.for_model(**settings)
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype)
        model = add_lora(base.requires_grad_(False), LoraSection(rank=4), seed).to(dtype)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # starts at zero, where half the gradients vanish
                torch.nn.init.normal_(parameter, std=0.05)
        if exact_norms:
            for module in model.modules():
                if type(module).__name__.endswith("RMSNorm"):
                    module.forward = partial(_norm_in_full_precision, module)
        return model.train()

    return make


def _norm_in_full_precision(module: Any, hidden: Any) -> Any:
    """Llama's norm without the cast to fp32."""
    variance = hidden.square().mean(-1, keepdim=True)
    return module.weight * hidden * (variance + module.variance_epsilon).rsqrt()
