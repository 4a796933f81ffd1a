"""The smallest model and tokenizer that are real ones: tests and `tests.torture` train them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_tokenizer() -> Any:
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


def make_llama(tokenizer: Any, seed: int = 0, **settings: Any) -> Any:
    """Makes a random two-layer Llama in fp32 for a tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,  # wide: random logits without near ties
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**{**config, **settings}))
    return model.eval().requires_grad_(False)


@cache
def short_triplets() -> list[Any]:
    """Shortens 20 triplets: each byte is a token, and most tests wait for steps."""
    from llmcausal.data.builtin import generate

    short = []
    for triplet in generate("train", 20, seed=1):
        benign, other = triplet.benign[:40], triplet.benign_cf[-40:]
        assert benign != other
        assert triplet.attack is not None
        short.append(
            replace(
                triplet,
                system=triplet.system.rpartition(". ")[2],
                benign=benign,
                benign_cf=other,
                injection=f"{benign}\n{triplet.attack.goal}",
            )
        )
    return short


def save_in_nf4(original: Path, folder: Path, **settings: Any) -> Path:
    """Stores a saved model in 4 bits, as the hub's `bnb-4bit` checkpoints: by transformers.

    Args:
        settings: `double`, `skipped` modules, `dtype` of the weights, `max_shard_size`.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=settings.pop("kind", "nf4"),
        bnb_4bit_use_double_quant=settings.pop("double", True),
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=settings.pop("skipped", None),
    )
    model = AutoModelForCausalLM.from_pretrained(
        original,
        quantization_config=quantization,
        dtype=settings.pop("dtype", torch.bfloat16),
        device_map={"": "cpu"},
    )
    model.save_pretrained(folder, **settings)
    for file in original.iterdir():
        if file.name.startswith(("tokenizer", "chat_template")):
            shutil.copyfile(file, folder / file.name)
    return folder
