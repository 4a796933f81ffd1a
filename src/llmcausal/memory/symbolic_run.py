"""The production step on fake tensors, replayed through the allocator: what `predict` runs."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import Any

import torch

from llmcausal.config import RunConfig
from llmcausal.memory.architecture import load_architecture
from llmcausal.memory.budget import CONTEXT_BYTES, GpuTraits
from llmcausal.memory.fake_model import Shape, layer_of
from llmcausal.memory.fake_step import trace_step
from llmcausal.memory.optimizer_states import temporary_bytes
from llmcausal.memory.prediction import Prediction, Workload
from llmcausal.memory.replay import replay
from llmcausal.memory.simulated_device import simulated_device
from llmcausal.memory.strategies import NAIVE, switches_of
from llmcausal.memory.trace import REAL_LAYERS, Allocation, Trace, extended
from llmcausal.model.device import expected_dtype
from llmcausal.model.trunk import check_layer
from llmcausal.train.build import needs_of


def run(config: RunConfig, workload: Workload, gpu: GpuTraits | None, strategy: str) -> Prediction:
    """Predicts in this process; see `symbolic.predict`, which chooses the process.

    Args:
        config: Settings.
        workload: The micro-batch.
        gpu: The simulated GPU; None: the CPU.
        strategy: Name to report.
    """
    started = time.perf_counter()
    section = config.model
    architecture: Any = load_architecture(
        section.name, section.revision, trust_remote_code=section.trust_remote_code
    ).get_text_config()
    layers = int(architecture.num_hidden_layers)
    check_layer(layers, config.loss.layer)
    trace = _extrapolated(config, workload, gpu, strategy, architecture)
    extrapolated = trace is not None
    if trace is None:
        trace = _traced(config, workload, gpu, strategy, layers)
    result = replay(trace, caching=gpu is not None)
    return Prediction(
        architecture=section.name,
        device="cuda" if gpu else "cpu",
        strategy=strategy,
        switches={} if strategy == NAIVE else switches_of(config.memory),
        workload=workload,
        **vars(result),
        context_bytes=CONTEXT_BYTES if gpu else 0,
        extrapolated=extrapolated,
        seconds=time.perf_counter() - started,
    )


def _extrapolated(
    config: RunConfig, workload: Workload, gpu: GpuTraits | None, strategy: str, architecture: Any
) -> Trace | None:
    layers = int(architecture.num_hidden_layers)
    kinds = set(getattr(architecture, "layer_types", None) or ())
    needs = needs_of(config.loss)
    one_layer_is_read = needs.middle or (bool(needs.pooled) and 0 <= config.loss.layer < layers)
    if layers <= REAL_LAYERS + 1 or len(kinds) > 1 or one_layer_is_read:
        return None
    return extended(_traced(config, workload, gpu, strategy, REAL_LAYERS, layers), layers)


def _traced(
    config: RunConfig,
    workload: Workload,
    gpu: GpuTraits | None,
    strategy: str,
    layers: int,
    of_layers: int | None = None,
) -> Trace:
    """Runs a step of `layers` layers; its optimizer is that of a model of `of_layers`."""
    device = "cuda" if gpu else "cpu"
    dtype = expected_dtype(config.model.precision, device)
    naive = strategy == NAIVE
    if naive:
        memory = config.memory.model_copy(update={"lora_dtype": "fp32"})
        config = config.model_copy(update={"memory": memory})
    wide = torch.float32 if naive else dtype
    shape = Shape(config, layers, dtype, wide, naive, gpu)
    place = simulated_device(gpu) if gpu else nullcontext(torch.device("cpu"))
    with place as where:
        trace, trained = trace_step(shape, workload, where)
    total = 0
    for name, parameter in trained.items():
        times = (of_layers or layers) / layers if layer_of(name) is not None else 1
        total += round(parameter.numel() * times)
    largest = max(parameter.numel() for parameter in trained.values())
    width = max(parameter.dtype.itemsize for parameter in trained.values())
    size = temporary_bytes(config.train.optimizer, largest, total, width, on_cuda=device == "cuda")
    trace.free(trace.allocate(Allocation(size, "optimizer", "update", "optimizer")))
    return trace
