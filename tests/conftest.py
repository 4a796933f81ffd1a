"""Rules for the whole suite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# How long an example takes says nothing on a machine that others use too.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests marked `gpu` where there is no CUDA device."""
    on_gpu = [item for item in items if "gpu" in item.keywords]
    if not on_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture
def chatml_tokenizer() -> Any:
    """One token a byte, ChatML control tokens; the pad token is the end-of-turn token."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True) for text in ("<|im_start|>", "<|im_end|>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=CHATML,
    )


@pytest.fixture
def tiny_llama(chatml_tokenizer: Any) -> Callable[..., Any]:
    """Makes a random two-layer Llama in fp32: `tiny_llama(seed=0, **config)`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    def make(seed: int = 0, **settings: Any) -> Any:
        config = {
            "vocab_size": len(chatml_tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "initializer_range": 0.3,  # wide: random logits without near ties
            "tie_word_embeddings": True,
            "bos_token_id": chatml_tokenizer.bos_token_id,
            "eos_token_id": chatml_tokenizer.eos_token_id,
            "pad_token_id": chatml_tokenizer.pad_token_id,
        }
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = LlamaForCausalLM(LlamaConfig(**{**config, **settings}))
        return model.eval().requires_grad_(False)

    return make


@pytest.fixture
def tiny_files(tmp_path: Path, tiny_llama: Any, chatml_tokenizer: Any) -> tuple[Path, Path]:
    """Saves a tiny model with its tokenizer, and 20 built-in triplets; returns their paths."""
    from llmcausal.data.builtin import generate
    from llmcausal.data.formats.jsonl import write_triplets

    model = tmp_path / "model"
    tiny_llama(hidden_size=64, intermediate_size=128, max_position_embeddings=2048).save_pretrained(
        model
    )
    chatml_tokenizer.save_pretrained(model)
    data = tmp_path / "train.jsonl"
    write_triplets(data, generate("train", 20, seed=1))
    return model, data
