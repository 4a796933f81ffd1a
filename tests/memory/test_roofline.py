"""A step's counted work, and its time at given rates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llmcausal.assembly import build
from llmcausal.config import RunConfig
from llmcausal.memory.prediction import Kernel, Workload, predict
from llmcausal.memory.roofline import (
    Rates,
    card_seconds,
    known_cards,
    queued_seconds,
    serial_seconds,
)
from llmcausal.memory.simulation.operations import kernels_of
from llmcausal.model.factory import LoadedModel
from llmcausal.model.lora import add_lora
from llmcausal.model.tree_attention import TREE_ATTENTION
from llmcausal.train.batch import collate, label_totals

PRODUCT = Kernel("mm", 100, 10)
COPY = Kernel("copy", 0, 50)
CROSSING = Kernel("copy", 0, 8, crosses=True)
RATES = Rates(flops=10, bytes=5, crossing_bytes=2, launch=3)


def test_a_kernel_takes_the_slower_of_products_and_traffic() -> None:
    assert serial_seconds([(PRODUCT, 2)], RATES) == 2 * (10 + 3)
    assert serial_seconds([(COPY, 1), (CROSSING, 1)], RATES) == (10 + 3) + (4 + 3)


def test_a_gpu_computes_while_its_host_launches_and_copies() -> None:
    assert queued_seconds([(PRODUCT, 1), (COPY, 1), (CROSSING, 1)], RATES) == 20
    assert queued_seconds([(Kernel("small", 1, 1), 10)], RATES) == 30
    assert queued_seconds([(PRODUCT, 1), (CROSSING, 5)], RATES) == 20


def test_every_card_has_a_range_and_a_source() -> None:
    kernels = [(Kernel("mm", 10**12, 10**9), 10), (Kernel("add", 0, 10**6), 1000)]
    assert len({card.name for card in known_cards()}) >= 5
    for card in known_cards():
        least, most = card_seconds(kernels, card)
        assert 10 / card.tensor_tflops <= least < most
        assert card.source
    times = {card.name: card_seconds(kernels, card)[0] for card in known_cards()}
    assert times["RTX 4090"] < times["RTX 3060"]


class Counted(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts real operations."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[Kernel] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.kernels += kernels_of(func, args, kwargs or {}, result, None)
        return result


def test_views_have_no_kernel_and_bytes_are_read_and_written() -> None:
    one = torch.ones(8, 4)
    table = torch.ones(1000, 4)
    with Counted() as counted:
        one.t().reshape(32)[:2]
        assert [kernel.name for kernel in counted.kernels] == ["clone"]
        one @ torch.ones(4, 6)
        torch.nn.functional.embedding(torch.tensor([3, 4]), table)
        one.copy_(torch.ones(1, 4).expand(8, 4))
    found = {kernel.name: kernel for kernel in counted.kernels}
    assert found["mm"] == Kernel("mm", 2 * 8 * 4 * 6, 4 * (8 * 4 + 4 * 6 + 8 * 6))
    assert found["embedding"].bytes == 2 * 8 + 2 * (2 * 4 * 4)
    assert found["copy_"].bytes == 4 * 4 + 8 * 4 * 4


@pytest.mark.parametrize("activations", ["keep", "recompute"])
def test_predicted_products_are_those_of_the_real_step(
    tiny_llama: Callable[..., Any],
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    activations: str,
) -> None:
    """Against torch's own counter, which knows no attention on a CPU."""
    monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: False)
    model = tiny_llama(hidden_size=64, intermediate_size=128)
    model.set_attn_implementation(TREE_ATTENTION)
    model.config.save_pretrained(tmp_path)
    config = RunConfig.model_validate(
        {
            "model": {
                "name": str(tmp_path),
                "quantization": "none",
                "device": "cpu",
                "precision": "fp32",
            },
            "memory": {"strategy": "manual", "activations": activations},
            "train": {"accumulation_steps": 1},
        }
    )
    workload = Workload(48, 16, 8)
    predicted = predict(config, workload, device="cpu")
    loaded = LoadedModel(model, None, torch.device("cpu"), torch.float32)  # type: ignore[arg-type]
    step = build.build_step(config, loaded, add_lora(model, config.lora, 0))
    model.train()
    batch = collate(workload.made_up(), step.objective.needs, config.loss.pooling)
    with FlopCounterMode(display=False) as counter, Counted() as real:
        step(batch, label_totals([batch]), lambda loss: loss.backward())
    counted = sum(
        kernel.flops * count
        for kernel, count in predicted.kernels
        if "attention" not in kernel.name
    )
    assert counted == counter.get_total_flops()
    assert predicted.launches == pytest.approx(len(real.kernels), rel=0.05)
