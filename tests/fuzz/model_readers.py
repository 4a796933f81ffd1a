"""Readers of what a model comes with: GGUF, an adapter's folder, a chat template."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy
import safetensors.numpy
from gguf import GGUFReader, GGUFWriter
from peft import LoraConfig

from llmcausal.data.template import ChatTemplate
from llmcausal.errors import ModelError
from llmcausal.model.gguf import check_header
from llmcausal.model.lora import read_adapter_config
from tests.fuzz.reader import Reader
from tests.tiny import make_tokenizer

TEMPLATES = Path(__file__).parents[1] / "data" / "templates"


def model_readers(folder: Path) -> Iterator[Reader]:
    """Yields them; `folder` is a scratch folder for making the seeds."""
    yield Reader("GGUF", [_gguf(folder / "seed.gguf")], _read_gguf, "model.gguf")
    config, weights = _adapter(folder / "adapter")
    _adapter(folder / "of-weights")
    yield Reader("adapter_config.json", [config], _read_adapter, "adapter/adapter_config.json")
    yield Reader(
        "adapter_model.safetensors", [weights], _read_adapter,
        "of-weights/adapter_model.safetensors",
    )  # fmt: skip
    templates = [path.read_bytes() for path in sorted(TEMPLATES.glob("*.jinja"))]
    yield Reader("chat template", [_CHATML, *templates], _Template(), "chat_template.jinja")


_CHATML = (
    b"{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>"
    b"\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _read_gguf(path: Path) -> None:
    """Reads what the conversion reads first; the library may object, but not hang or grow."""
    check_header(path)
    try:
        for tensor in GGUFReader(path).tensors:
            assert tensor.data.nbytes <= path.stat().st_size
    except Exception as error:
        raise ModelError(f"{path}: {error}") from error  # as the factory does


def _gguf(path: Path) -> bytes:
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_embedding_length(4)
    writer.add_context_length(64)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b", "<|im_end|>"])
    writer.add_token_types([1, 1, 3])
    for name in ("token_embd.weight", "blk.0.attn_q.weight"):
        writer.add_tensor(name, numpy.zeros((4, 4), numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def _adapter(folder: Path) -> tuple[bytes, bytes]:
    LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM").save_pretrained(folder)
    names = ("lora_A", "lora_B")
    tensors = {f"base_model.model.q_proj.{name}.weight": numpy.zeros((2, 2)) for name in names}
    safetensors.numpy.save_file(tensors, folder / "adapter_model.safetensors")
    files = ("adapter_config.json", "adapter_model.safetensors")
    return (folder / files[0]).read_bytes(), (folder / files[1]).read_bytes()


def _read_adapter(path: Path) -> None:
    read_adapter_config(path.parent)


class _Template:
    """Takes templates apart for a tiny tokenizer, made at the first use."""

    def __init__(self) -> None:
        self._tokenizer = None

    def __call__(self, path: Path) -> None:
        self._tokenizer = self._tokenizer or make_tokenizer()
        ChatTemplate(self._tokenizer, path.read_bytes().decode("utf-8", "replace"))
