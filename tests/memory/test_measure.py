"""What is measured, against tensors and steps whose memory is known beforehand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llmcausal.assembly.prepare import prepare_data
from llmcausal.memory.measure import held_bytes, measure, measure_triplets
from llmcausal.memory.prediction import Workload
from llmcausal.memory.workload import largest_rows

CPU = torch.device("cpu")
WORKLOAD = Workload(1)


class Held(torch.nn.Module):
    """One weight of 1 MiB, a view of it, and a buffer of 64 KiB."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(512, 512))
        self.tied = torch.nn.Parameter(self.weight.detach()[:10])
        self.register_buffer("table", torch.zeros(128, 128))


def test_held_bytes_count_a_storage_once() -> None:
    assert held_bytes([Held(), Held()]) == 2 * (2**20 + 2**16)


def test_held_bytes_count_the_scales_of_quantized_weights() -> None:
    from bitsandbytes.nn import Linear4bit

    layer = Linear4bit(256, 512, bias=False, compress_statistics=True, quant_type="nf4")
    layer = layer.to("cpu")  # quantizes
    state: Any = layer.weight.quant_state
    scales = [state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
    expected = 256 * 512 // 2 + sum(each.numel() * each.element_size() for each in scales)
    assert held_bytes([layer]) == expected


def test_the_peak_is_the_most_that_lives_at_one_time() -> None:
    """8 MiB and 4 MiB live together, 16 MiB alone; gradients last from step to step."""
    module = Held()
    kept: list[torch.Tensor] = []

    def step() -> None:
        if not kept:
            kept.append(torch.empty(2**18))  # 1 MiB, as a state that the first step makes
        first = torch.empty(2**21)
        second = torch.empty(2**20)
        del first, second
        third = torch.empty(2**22)
        del third

    peaks = measure(step, [module], CPU, WORKLOAD, steps=3)
    assert peaks.allocated_peak_bytes == held_bytes([module]) + 2**20 + 2**24
    assert peaks.reserved_peak_bytes is None
    assert peaks.host_peak_bytes is not None
    assert peaks.host_peak_bytes > peaks.allocated_peak_bytes
    assert peaks.step_seconds > 0


def test_a_product_s_backward_is_seen() -> None:
    """Autograd's own tensors: the output, its gradient and the weight's gradient."""
    weight = torch.nn.Parameter(torch.ones(256, 1024))
    holder = torch.nn.ParameterList([weight])
    rows = torch.ones(2048, 1024)

    def step() -> None:
        weight.grad = None
        (rows @ weight.T).relu().sum().backward()

    product, gradient = 2048 * 256 * 4, 256 * 1024 * 4
    found = measure(step, [holder], CPU, WORKLOAD, steps=2)
    peak = found.allocated_peak_bytes - held_bytes([holder])
    assert 2 * product <= peak <= 3 * product + gradient


def test_steps_on_the_longest_rows(tiny_run_config: Any) -> None:
    def measured(**sections: Any) -> Any:
        config = tiny_run_config(**sections)
        rows = largest_rows(config, prepare_data(config).train)
        return measure_triplets(config, rows, steps=2)

    short = measured()
    assert short.device == "cpu"
    assert short.workload.triplets == 2
    for more in ({"memory": {"activations": "keep"}}, {"lora": {"rank": 64}}):
        assert measured(**more).allocated_peak_bytes > short.allocated_peak_bytes


@pytest.fixture
def tiny_run_config(tiny_files: Any) -> Any:
    """Makes a config of a tiny model on 20 built-in triplets."""
    from llmcausal.config import RunConfig

    model, data = tiny_files

    def make(**sections: Any) -> RunConfig:
        values: dict[str, Any] = {
            "model": {"name": str(model), "device": "cpu", "quantization": "none"},
            "data": {"train": str(data)},
            "loss": {"projection_dim": 8, "projection_hidden_dim": 16},
            "train": {"batch_size": 2, "accumulation_steps": 2},
            **sections,
        }
        return RunConfig.model_validate(values)

    return make
