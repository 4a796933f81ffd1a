"""Paths that only CUDA reaches, run here over stand-ins for the driver, the allocator or a card."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.quantizers.auto import AutoHfQuantizer

from llmcausal.config import LoraSection, MemorySection, ModelSection
from llmcausal.diagnostics import compute
from llmcausal.errors import ModelError
from llmcausal.evaluation.generation import _decoded
from llmcausal.memory import symbolic
from llmcausal.memory.budget import CONTEXT_BYTES, GIB, Budget, enforce
from llmcausal.memory.strategies import candidates
from llmcausal.model import device, factory
from llmcausal.model.device import settled_precision
from llmcausal.model.lora import add_lora
from llmcausal.model.projection import ProjectionHead
from llmcausal.train.rng import restore_rng, rng_state

PAGED_FROM = 100_000
"""Elements from which bitsandbytes pages the states of an optimizer (`optim/optimizer.py`)."""


@pytest.fixture
def two_cards(monkeypatch: pytest.MonkeyPatch) -> dict[int, Any]:
    """Two GPUs, as far as torch's generators know; returns the states that they got."""
    taken: dict[int, Any] = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda index: torch.tensor([index]))
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [torch.tensor([0]), torch.ones(1)])
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda state, index: taken.update({int(index): state})
    )
    return taken


@pytest.mark.parametrize(("saved", "here"), [(2, 2), (2, 1), (1, 2)])
def test_a_run_goes_on_with_more_or_fewer_gpus(
    two_cards: dict[int, Any], monkeypatch: pytest.MonkeyPatch, saved: int, here: int
) -> None:
    state = rng_state()
    state["cuda"] = state["cuda"][:saved]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: here)
    restore_rng(state)
    assert sorted(two_cards) == list(range(min(saved, here)))


def test_no_generator_of_a_gpu_is_touched_by_what_is_drawn_on_the_cpu(
    two_cards: dict[int, Any], tiny_llama: Any
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of generators of two GPUs
        ProjectionHead(8, 8, 8)
        add_lora(tiny_llama(), LoraSection(rank=2), 0, dtype=torch.float32)
    assert two_cards == {}


@pytest.mark.parametrize(
    ("budget", "share"),
    [(5 * GIB, (5 * GIB - CONTEXT_BYTES) / (6 * GIB)), (9 * GIB, 1.0), (GIB // 4, 0.0)],
)
def test_the_allocator_keeps_to_the_budget(
    monkeypatch: pytest.MonkeyPatch, budget: int, share: float
) -> None:
    asked: list[float] = []
    card = SimpleNamespace(total_memory=6 * GIB)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", asked.append)
    enforce(Budget(budget, "a test"))
    assert asked == [pytest.approx(share)]


def test_a_card_without_bf16_is_planned_in_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "has_bf16", lambda: False)
    precision, note = settled_precision("auto", torch.device("cuda"))
    assert (precision, note) == ("fp16", "precision: fp16; this GPU has no bf16")
    assert settled_precision("fp32", torch.device("cuda")) == ("fp32", "")


def test_no_fp16_plan_has_adapters_that_cannot_be_unscaled() -> None:
    half = candidates(MemorySection(), "fp16")
    assert {option.switches["lora_dtype"] for option in half} == {"fp32"}
    assert [option.name for option in half] == [each.name for each in candidates(MemorySection())]
    assert half[-1].switches["token_chunk"] > 0


def test_the_doctor_tries_an_optimizer_that_is_paged(monkeypatch: pytest.MonkeyPatch) -> None:
    import bitsandbytes as bnb

    sizes: list[int] = []

    class Watched(bnb.optim.PagedAdamW8bit):  # type: ignore[misc]
        def __init__(self, parameters: list[Any], **options: Any) -> None:
            sizes.extend(parameter.numel() for parameter in parameters)
            super().__init__(parameters, **options)

    monkeypatch.setattr(bnb.optim, "PagedAdamW8bit", Watched)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on a CPU nothing is paged
        assert compute.adamw8bit_moves(torch.device("cpu"))
    assert min(sizes) >= PAGED_FROM


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate`"),
        MemoryError(),
    ],
)
def test_answering_goes_on_in_smaller_batches_whatever_ran_out(error: Exception) -> None:
    def decode(batch: list[Any]) -> list[list[int]]:
        if len(batch) > 2:
            raise error
        return [[len(batch)] for _ in batch]

    batches = [[(index,) for index in range(5)]]
    found = list(_decoded(decode, batches, halving=True))  # type: ignore[arg-type]
    assert [index for batch, _ in found for (index,) in batch] == list(range(5))
    with pytest.raises(type(error)):
        list(_decoded(decode, batches, halving=False))  # type: ignore[arg-type]


def test_a_bug_is_no_lack_of_memory() -> None:
    def decode(batch: list[Any]) -> list[list[int]]:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        list(_decoded(decode, [[(1,), (2,)]], halving=True))  # type: ignore[arg-type]


def test_the_process_that_predicts_ends_after_planning() -> None:
    symbolic._child()
    assert symbolic._child.cache_info().currsize == 1
    symbolic.end_child()
    assert symbolic._child.cache_info().currsize == 0
    symbolic.end_child()  # nothing to end


@pytest.mark.parametrize("head", ["host", "device"])
def test_modules_in_host_memory_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tiny_llama: Any,
    chatml_tokenizer: Any,
    head: Any,
) -> None:
    tiny_llama().save_pretrained(tmp_path)
    chatml_tokenizer.save_pretrained(tmp_path)
    monkeypatch.setattr(factory, "choose_device", lambda _: torch.device("cuda", 0))
    monkeypatch.setattr(factory, "choose_dtype", lambda *_: torch.bfloat16)
    asked: dict[str, Any] = {}

    def from_pretrained(_: str, **arguments: Any) -> Any:
        asked.update(arguments)
        raise OSError("seen")

    monkeypatch.setattr(factory.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    section = ModelSection(name=str(tmp_path), quantization="nf4")
    with pytest.raises(ModelError, match="seen"):
        factory.load_model(section, MemorySection(embeddings="host", head=head))
    hosted = [name for name, place in asked["device_map"].items() if place.type == "cpu"]
    assert "lm_head" in hosted or head == "device"
    # As transformers reads a map of names: so far it looks past devices that are no strings.
    places = {name: str(place) for name, place in asked["device_map"].items()}
    quantizer = AutoHfQuantizer.from_config(asked["quantization_config"], pre_quantized=False)
    quantizer.validate_environment(device_map=places)
    assert quantizer.quantization_config.llm_int8_enable_fp32_cpu_offload == bool(hosted)
