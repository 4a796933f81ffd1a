"""Paths that only CUDA reaches, run here over stand-ins for the driver, the allocator or a card."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from transformers.quantizers.auto import AutoHfQuantizer

from llmcausal.config import LoraSection, MemorySection, ModelSection, TrainSection
from llmcausal.data.prefix_tree import AttentionBlock
from llmcausal.diagnostics import environment
from llmcausal.errors import ModelError
from llmcausal.evaluation.generation import decode_batches
from llmcausal.losses.base import ProjectionHead
from llmcausal.memory import prediction
from llmcausal.memory.budget import GIB, Budget, enforce, free_vram_bytes
from llmcausal.memory.prediction import CONTEXT_BYTES, GpuTraits, traits_here
from llmcausal.memory.simulation.operations import workspaces
from llmcausal.memory.strategies import candidates
from llmcausal.model import device, factory, tree_attention
from llmcausal.model.device import settled_precision
from llmcausal.model.lora import add_lora
from llmcausal.model.tree_attention import TreeBlocks, tree_attention_forward
from llmcausal.train.optimizer import build_optimizer
from llmcausal.train.recovery import release
from llmcausal.train.rng import restore_rng, rng_state, seed_everything

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


def test_no_plan_rounds_adapters_to_the_compute_dtype() -> None:
    options = candidates(MemorySection())
    assert {option.switches["lora_dtype"] for option in options} == {"fp32"}
    assert options[-1].switches["token_chunk"] > 0


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
        assert environment.adamw8bit_moves(torch.device("cpu"), paged=True)
        assert min(sizes) >= PAGED_FROM
        sizes.clear()
        assert environment.adamw8bit_moves(torch.device("cpu"), paged=False)
    assert not sizes


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
    found = list(decode_batches(decode, batches, halving=True))  # type: ignore[arg-type]
    assert [index for batch, _ in found for (index,) in batch] == list(range(5))
    with pytest.raises(type(error)):
        list(decode_batches(decode, batches, halving=False))  # type: ignore[arg-type]


def test_a_bug_is_no_lack_of_memory() -> None:
    def decode(batch: list[Any]) -> list[list[int]]:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        list(decode_batches(decode, [[(1,), (2,)]], halving=True))  # type: ignore[arg-type]


def test_the_process_that_predicts_ends_after_planning() -> None:
    prediction._child()
    assert prediction._child.cache_info().currsize == 1
    prediction.end_child()
    assert prediction._child.cache_info().currsize == 0
    prediction.end_child()  # nothing to end


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


@pytest.mark.parametrize(
    ("system", "release", "paged"),
    [
        ("Linux", "6.8.0-40-generic", True),
        ("Linux", "5.15.153.1-microsoft-standard-WSL2", False),
        ("Windows", "11", False),
    ],
)
def test_no_optimizer_pages_under_the_windows_driver(
    monkeypatch: pytest.MonkeyPatch, system: str, release: str, paged: bool
) -> None:
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.uname", lambda: SimpleNamespace(release=release))
    weight = torch.nn.Parameter(torch.ones(8))
    optimizer: Any = build_optimizer(TrainSection(), {"adapter": [weight]})
    assert optimizer.is_paged == paged
    traits = traits_here()
    assert traits.pages == paged
    assert traits.flash == (system != "Windows")
    told = " ".join(traits.notes("paged_adamw_8bit"))
    assert ("8-bit states stay on the GPU" in told) != paged
    assert ("no flash attention" in told) != traits.flash
    assert "optimizer" not in " ".join(traits.notes("adamw"))


@pytest.mark.parametrize(
    ("built", "capability", "flash"),
    [(True, (8, 9), True), (True, (7, 5), False), (False, (8, 9), False)],
)
def test_flash_attention_is_expected_where_torch_and_the_gpu_have_it(
    monkeypatch: pytest.MonkeyPatch, built: bool, capability: tuple[int, int], flash: bool
) -> None:
    card = SimpleNamespace(multi_processor_count=20)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: built)
    traits = traits_here()
    assert (traits.flash, traits.multiprocessors) == (flash, 20)


def test_the_deterministic_form_of_flash_attention_takes_a_sum_for_each_part_of_the_gpu() -> None:
    query = torch.empty(1, 32, 64, 128, dtype=torch.bfloat16, device="meta")
    func = SimpleNamespace(name=lambda: "aten::_scaled_dot_product_flash_attention_backward")
    taken = {
        count: sum(
            size
            for _, size in workspaces(func, (query, query, query), GpuTraits(multiprocessors=count))
        )
        for count in (20, 32, 82)
    }
    assert taken[20] == taken[32] == 4 * query.numel()
    assert taken[82] == 3 * taken[20]


class _Attention(torch.autograd.Function):
    """Stands for the kernel of CUDA: notes in which mode its backward pass runs."""

    modes: ClassVar[list[int]] = []
    fails = False

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor) -> torch.Tensor:
        return query.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        _Attention.modes.append(torch.get_deterministic_debug_mode())
        if _Attention.fails:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return gradient


@pytest.fixture
def attention_of_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The stand-in's output, taken for one of CUDA's attention."""
    monkeypatch.setattr(_Attention, "modes", [])
    monkeypatch.setattr(tree_attention, "_NODES", ("_Attention",))
    monkeypatch.setattr(tree_attention, "ON", "cpu")
    yield _Attention.apply
    torch.set_deterministic_debug_mode("default")


def test_attention_goes_backward_in_one_order_and_nothing_else_does(attention_of_cuda: Any) -> None:
    seen: list[int] = []
    query = torch.ones(2, 3, requires_grad=True)
    before = query * 2
    before.register_hook(lambda _: seen.append(torch.get_deterministic_debug_mode()))
    attended = attention_of_cuda(before)
    after = tree_attention.in_fixed_order(attended.transpose(0, 1).contiguous())
    after.register_hook(lambda _: seen.append(torch.get_deterministic_debug_mode()))
    after.sum().backward()
    assert _Attention.modes == [2]  # torch's "error": the only one in which the kernels obey
    assert seen == [0, 0]
    assert torch.get_deterministic_debug_mode() == 0


def test_running_out_of_memory_in_attention_leaves_no_mode_behind(
    attention_of_cuda: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Attention, "fails", True)
    attended = tree_attention.in_fixed_order(attention_of_cuda(torch.ones(2, requires_grad=True)))
    with pytest.raises(torch.OutOfMemoryError):
        attended.sum().backward()
    assert torch.get_deterministic_debug_mode() == 2
    release([])
    assert torch.get_deterministic_debug_mode() == 0


def test_tensors_that_autocast_would_cast_go_through_torchs_own_attention(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The memory-efficient kernel, called directly, would read values of another type."""
    monkeypatch.setattr(torch.backends.cuda, "can_use_efficient_attention", lambda _: True)
    query, key = torch.randn(2, 1, 4, 6, 8)
    for value in (key.bfloat16(), key):
        with torch.autocast("cpu", torch.bfloat16):
            output, _ = tree_attention_forward(torch.nn.Module(), query, key, value, None)
        assert output.dtype == torch.bfloat16


@pytest.mark.parametrize("blocks", [True, False])
@pytest.mark.parametrize(
    ("question", "node"),
    [
        ("can_use_flash_attention", "ScaledDotProductFlashAttentionBackward0"),
        ("can_use_efficient_attention", "EfficientAttentionBackward0"),
        (None, "ScaledDotProduct"),
    ],
)
def test_attention_of_trees_and_of_single_members_is_ordered(
    monkeypatch: pytest.MonkeyPatch, question: str | None, node: str, blocks: bool
) -> None:
    """With the signatures, shapes and nodes of CUDA's kernels, on tensors without content."""
    held: list[str] = []
    where = "meta" if question else "cpu"
    monkeypatch.setattr(tree_attention, "ON", where)
    monkeypatch.setattr(tree_attention, "_hold_order", lambda node: held.append(node.name()))
    if question:
        monkeypatch.setattr(torch.backends.cuda, question, lambda _: True)
    kind: dict[str, Any] = {"device": where, "dtype": torch.bfloat16, "requires_grad": True}
    query = torch.randn(1, 4, 6, 8, **kind)
    key, value = torch.randn(2, 1, 2, 6, 8, **kind)
    runs = [((0, 2), ((0, 2),)), ((2, 4), ((0, 4),)), ((4, 6), ((0, 2), (4, 6)))]
    cut = TreeBlocks([AttentionBlock(*each) for each in runs], torch.empty(0))
    given: dict[str, Any] = {"tree_blocks": cut} if blocks else {}
    output, _ = tree_attention_forward(torch.nn.Module(), query, key, value, None, **given)
    assert output.shape == (1, 6, 4, 8)
    assert len(held) == (3 if blocks else 1)
    assert all(name.startswith(node) for name in held)
    output.sum().backward()
    assert query.grad is not None


def test_a_fresh_run_leaves_out_attention_without_an_order(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", asked.append)
    seed_everything(0)
    assert asked == [False]


@pytest.mark.parametrize("answered", [True, False])
def test_what_this_process_holds_of_the_gpu_is_free_to_it(
    monkeypatch: pytest.MonkeyPatch, answered: bool
) -> None:
    """A model that answered is gone; its context and torch's cache are still there."""
    monkeypatch.setitem(sys.modules, "pynvml", None)  # so torch is asked
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: answered)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2 * GIB, 6 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: GIB)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 4 * GIB)
    held = GIB + CONTEXT_BYTES if answered else 0
    assert free_vram_bytes() == (2 * GIB + held, "CUDA")


@pytest.mark.parametrize(
    ("rank", "visible", "asked"),
    [(None, None, 0), ("1", None, 1), ("1", "3,2", 2), ("0", "3,2", 3)],
)
def test_each_process_asks_its_own_gpu(
    monkeypatch: pytest.MonkeyPatch, rank: str | None, visible: str | None, asked: int
) -> None:
    names = {"WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank} if rank else {}
    for name, value in {**names, "CUDA_VISIBLE_DEVICES": visible}.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda index: SimpleNamespace(free=index),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert free_vram_bytes() == (asked, "NVML")
