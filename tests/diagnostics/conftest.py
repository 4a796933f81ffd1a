from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llmcausal.config import RunConfig
from llmcausal.diagnostics.check import Facts
from llmcausal.diagnostics.machine import Gpu, Machine, Torch

GIB = 2**30
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
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": 257}))
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


CPU_MACHINE = Machine(
    python=(3, 12, 1),
    system="Linux x86_64",
    wsl=False,
    ram_bytes=16 * GIB,
    ram_free_bytes=12 * GIB,
    torch=Torch("2.13.0+cpu", threads=4),
)
RTX_4050 = Gpu("NVIDIA GeForce RTX 4050", 6 * GIB, 5 * GIB + GIB // 2, (8, 9))
GPU_MACHINE = dataclasses.replace(
    CPU_MACHINE,
    torch=Torch("2.13.0+cu126", (12, 6), True, ("sm_75", "sm_80", "sm_86", "sm_90")),
    driver="560.35.03",
    driver_cuda=(12, 6),
    gpus=(RTX_4050,),
)


@pytest.fixture
def on_cpu(config: RunConfig):
    """Facts of a machine without a GPU, with changes to the machine: `on_cpu(wsl=True)`."""

    def make(config: RunConfig = config, **changes: object) -> Facts:
        return Facts(config, dataclasses.replace(CPU_MACHINE, **changes))

    return make


@pytest.fixture
def on_gpu(config: RunConfig):
    """Facts of a machine with an RTX 4050 that the profile trains on, with changes."""
    asked = change(config, "model", device="auto", precision="auto")

    def make(config: RunConfig = asked, **changes: object) -> Facts:
        return Facts(config, dataclasses.replace(GPU_MACHINE, **changes))

    return make
