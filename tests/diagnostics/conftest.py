from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llmcausal.config import RunConfig

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A local model: configuration, a byte-level tokenizer with ChatML, and (empty) weights."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    controls = ["<|im_start|>", "<|im_end|>"]
    backend.add_special_tokens([AddedToken(text, special=True) for text in controls])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>")
    tokenizer.chat_template = CHATML
    folder = tmp_path / "model"
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (folder / "model.safetensors").write_bytes(b"x" * 1024)
    return folder


@pytest.fixture
def config(model_folder: Path, tmp_path: Path) -> RunConfig:
    return RunConfig.model_validate(
        {
            "output_dir": tmp_path / "runs",
            "model": {"name": str(model_folder), "device": "cpu", "precision": "fp32"},
            "data": {"builtin": {"train": 4, "validation": 2, "test": 3}},
        }
    )


def change(config: RunConfig, section: str, **settings: object) -> RunConfig:
    part = getattr(config, section).model_copy(update=settings)
    return config.model_copy(update={section: part})


@pytest.fixture(name="change")
def change_fixture():
    """The function that changes settings of one section."""
    return change
