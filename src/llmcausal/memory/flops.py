"""FLOPs of a training step, counted for the tokens at hand, and the floor that they set.

A time follows from these counts and a rate that was measured on the device at hand, or from
measured steps. Nothing here takes a rate from a data sheet.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from llmcausal.config import LoraSection, MemorySection
from llmcausal.memory.architecture import on_meta
from llmcausal.memory.workload import Tokens

_READS_EMBEDDING = ("q_proj", "k_proj", "v_proj", "qkv_proj")
"""Linear layers of the first block whose input needs no gradient: it is the embedding."""


@dataclass(frozen=True)
class ModelShape:
    """What the FLOPs of a model follow from.

    Attributes:
        linears: Input and output width of each linear layer of the decoder, by full name.
        attention_width: Heads times head width.
        vocabulary: Rows of the head.
        element_bytes: Of one value in the compute dtype.
    """

    linears: dict[str, tuple[int, int]]
    layers: int
    attention_width: int
    width: int
    vocabulary: int
    element_bytes: int


def model_shape(architecture: Any, element_bytes: int) -> ModelShape:
    """Reads the shapes off a model of a transformers config, without weights."""
    model = on_meta(architecture)
    text = architecture.get_text_config()
    head = model.get_output_embeddings()
    linears = {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    heads = text.num_attention_heads
    head_width = getattr(text, "head_dim", None) or text.hidden_size // heads
    return ModelShape(
        linears=linears,
        layers=text.num_hidden_layers,
        attention_width=heads * head_width,
        width=text.hidden_size,
        vocabulary=text.vocab_size,
        element_bytes=element_bytes,
    )


@dataclass(frozen=True)
class StepCost:
    """What one micro-batch computes and moves, forward and backward.

    Attributes:
        flops: Floating-point operations by part; a multiply and an add count as two.
        moved_bytes: Bytes between host and device, both ways.
    """

    flops: dict[str, float]
    moved_bytes: float

    @property
    def total_flops(self) -> float:
        """All floating-point operations."""
        return sum(self.flops.values())


def step_cost(
    shape: ModelShape,
    tokens: Tokens,
    section: MemorySection,
    lora: LoraSection,
    *,
    naive: bool = False,
) -> StepCost:
    """Counts a micro-batch under the switches of `[memory]`.

    Frozen weights get no gradient, and the first layer's input needs none. The optimizer, norms,
    element-wise operations and the dequantization of weights are not counted: the figure is a
    floor.

    `naive` counts the usual recipe: three passes with all logits.
    """
    weights = adapters = first = first_adapters = 0
    for name, (inner, outer) in shape.linears.items():
        module = name.rpartition(".")[2]
        rank = lora.rank if module in lora.target_modules else 0
        weights += inner * outer
        adapters += rank * (inner + outer)
        if ".layers.0." in f".{name}." and module in _READS_EMBEDDING:
            first += inner * outer
            first_adapters += rank * inner
    tree = section.members == "tree" and not naive
    nodes = tokens.nodes if tree else tokens.separate
    pairs = tokens.tree_pairs if tree else tokens.separate_pairs
    labels = tokens.separate if naive else tokens.labels
    attention = 4 * shape.layers * shape.attention_width
    forward = 2 * (weights + adapters) * nodes + attention * pairs
    flops = {
        "forward": forward,
        # Input gradients of all layers but the first, weight gradients of the adapters alone;
        # attention computes its scores again: five products where the forward pass has two.
        "backward": 2 * (weights - first + 2 * adapters - first_adapters) * nodes
        + 2.5 * attention * pairs,
        "head": 4 * shape.vocabulary * shape.width * labels,
        "recompute": forward if naive or section.activations != "keep" else 0.0,
    }
    if section.members == "one_by_one" and not naive:
        flops["second pass"] = (
            2 * (weights + adapters) * tokens.again + attention * tokens.again_pairs
        )
    moved = 0.0 if naive else _moved_bytes(shape, section, nodes)
    return StepCost(flops, moved)


def _moved_bytes(shape: ModelShape, section: MemorySection, nodes: float) -> float:
    state = nodes * shape.width * shape.element_bytes
    moved = 0.0
    if section.activations == "offload":
        moved += 2 * shape.layers * state
    if section.embeddings == "host":
        moved += state
    if section.head == "host":  # it passes once, for losses and gradients
        moved += shape.vocabulary * shape.width * shape.element_bytes
    return moved


def measured_flops_per_second(
    device: torch.device, dtype: torch.dtype, *, seconds: float = 0.5
) -> float:
    """Measures the rate of a large matrix product, the best of some: no step can be faster.

    Args:
        device: Where to compute.
        dtype: Of the product; for 4-bit weights their compute dtype.
        seconds: To spend, after one untimed product.
    """
    size = 4096 if device.type == "cuda" else 1024
    left = torch.ones(size, size, dtype=dtype, device=device)
    best = float("inf")
    began = time.perf_counter()
    rounds = 0
    while rounds < 3 or time.perf_counter() - began < seconds:
        _wait(device)
        start = time.perf_counter()
        left @ left
        _wait(device)
        if rounds:
            best = min(best, time.perf_counter() - start)
        rounds += 1
    return 2 * size**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def run_time(
    cost: StepCost,
    tokens: Tokens,
    triplets: int,
    section: MemorySection,
    *,
    flops_per_second: float | None,
    pace: float | None = None,
) -> dict[str, Any]:
    """Puts counts and measured rates together.

    Args:
        cost: Of an average micro-batch.
        tokens: Of the same.
        triplets: In the whole run, all epochs.
        section: The switches.
        flops_per_second: Rate of a matrix product on the device that trains.
        pace: FLOPs per second of real steps there.

    Returns:
        FLOPs and computed tokens per triplet; `floor_seconds` and `estimate_seconds` of the run at
        these two rates, None without them.
    """
    per_triplet = cost.total_flops / tokens.triplets
    computed = tokens.nodes if section.members == "tree" else tokens.separate
    total = per_triplet * triplets
    return {
        "flops_per_triplet": per_triplet,
        "tokens_per_triplet": computed / tokens.triplets,
        "triplets": triplets,
        "floor_seconds": None if flops_per_second is None else total / flops_per_second,
        "flops_per_second": flops_per_second,
        "estimate_seconds": None if pace is None else total / pace,
    }
