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
    """A checkpoint as training writes it, with other files than the adapter's."""
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
    import torch
    from transformers import AutoModelForCausalLM

    from llmcausal.data.template import ChatTemplate
    from llmcausal.export.source import ExportSource

    def load_base() -> Any:
        base = AutoModelForCausalLM.from_pretrained(base_dir)
        base.config.use_cache = False  # as the factory leaves it
        return base

    return ExportSource(
        checkpoint, load_base, ChatTemplate(chatml_tokenizer), str(base_dir), torch.float32
    )


@pytest.fixture
def export() -> Callable[..., Any]:
    """Exports as the command does: `export("merged", source, out, check=False)`."""
    from llmcausal.export import EXPORTERS
    from llmcausal.export.artifact import ExportOptions

    def run(kind: str, source: Any, out: Path, **options: Any) -> Any:
        return EXPORTERS.load(kind)(source, out, ExportOptions(**options))

    return run


@pytest.fixture(scope="session")
def sentence_piece(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a SentencePiece tokenizer of Llama 2's kind, and Llama 2's chat template."""
    import sentencepiece
    from transformers import LlamaTokenizerFast

    folder = tmp_path_factory.mktemp("sentence-piece")
    text = (Path(__file__).parents[1] / "data" / "conftest.py").read_text(encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*text.splitlines(), *["[INST] [/INST] <<SYS>> <</SYS>>"] * 50]),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=600,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    tokenizer = LlamaTokenizerFast.from_pretrained(folder)
    template = Path(__file__).parents[1] / "data" / "templates" / "llama2.jinja"
    tokenizer.chat_template = template.read_text(encoding="utf-8")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def llama2_source(
    tmp_path: Path, sentence_piece: Path, tiny_llama: Callable[..., Any]
) -> Callable[..., Any]:
    """Makes the source of a tiny Llama 2 whose answers end at once, with a trained adapter."""
    import shutil

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from llmcausal.config import LoraSection
    from llmcausal.data.template import ChatTemplate
    from llmcausal.export.source import ExportSource
    from llmcausal.model.lora import add_lora

    tokenizer = AutoTokenizer.from_pretrained(sentence_piece)
    base, adapter = tmp_path / "llama2", tmp_path / "adapter"
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos")}
    tiny_llama(vocab_size=len(tokenizer), pad_token_id=0, **ids).save_pretrained(base)
    for file in sentence_piece.glob("tokenizer*"):
        shutil.copyfile(file, base / file.name)

    def load_base() -> Any:
        return AutoModelForCausalLM.from_pretrained(base)

    model = add_lora(load_base(), LoraSection(rank=4, target_modules=("v_proj",)), seed=1)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3, generator=generator)
    model.save_pretrained(adapter)
    return ExportSource(adapter, load_base, ChatTemplate(tokenizer), str(base), torch.float32)
