"""Rules for the whole suite."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.tiny import make_llama, make_tokenizer, short_triplets

# A tracker's thread that reports its use home draws from Python's generator, at any time.
os.environ["DO_NOT_TRACK"] = "true"

# How long an example takes says nothing on a machine that others use too.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests marked `gpu` without a CUDA device, those marked `bf16` where it is emulated."""
    marked = {
        name: [item for item in items if item.get_closest_marker(name)] for name in ("gpu", "bf16")
    }
    if not any(marked.values()):
        return
    import torch

    from llmcausal.model.device import has_bf16_instructions

    missing = {}
    if not torch.cuda.is_available():
        missing["gpu"] = "no CUDA device"
    if not has_bf16_instructions():
        missing["bf16"] = "this processor has no bf16 instructions"
    for name, reason in missing.items():
        for item in marked[name]:
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish() -> None:
    """Spares each collection of garbage the million objects of torch, which take it 0.3 s."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def every_processor_is_alike() -> None:
    """`model.precision = "auto"` is fp32 in the tests' own process, whatever is faster here."""
    from llmcausal.model import device

    device.bf16_speedup = lambda: 0.0  # type: ignore[assignment]


@pytest.fixture
def chatml_tokenizer() -> Any:
    """One token a byte, ChatML control tokens; the pad token is the end-of-turn token."""
    return make_tokenizer()


@pytest.fixture
def tiny_llama(chatml_tokenizer: Any) -> Callable[..., Any]:
    """Makes a random two-layer Llama in fp32: `tiny_llama(seed=0, **config)`."""
    return partial(make_llama, chatml_tokenizer)


@pytest.fixture(scope="session")
def tiny_saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and its tokenizer, and 20 short triplets; tests copy it."""
    from llmcausal.data.formats.jsonl import write_triplets

    folder, tokenizer = tmp_path_factory.mktemp("tiny"), make_tokenizer()
    shape = {"hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 2048}
    make_llama(tokenizer, **shape).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    write_triplets(folder / "train.jsonl", short_triplets())
    return folder


@pytest.fixture
def tiny_files(tmp_path: Path, tiny_saved: Path) -> tuple[Path, Path]:
    """Copies the tiny model with its tokenizer, and 20 short triplets; returns their paths."""
    shutil.copytree(tiny_saved, tmp_path, dirs_exist_ok=True)
    return tmp_path / "model", tmp_path / "train.jsonl"


@pytest.fixture
def template(chatml_tokenizer: Any) -> Any:
    """The tiny model's prompt rendering."""
    from llmcausal.data.template import ChatTemplate

    return ChatTemplate(chatml_tokenizer)


@pytest.fixture
def peft_model(tiny_llama: Callable[..., Any]) -> Any:
    """A tiny model with an adapter that changes its answers."""
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
