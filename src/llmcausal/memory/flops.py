"""A training step's FLOPs, counted for given tokens, and the least time that they take."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from llmcausal.config import LoraSection, MemorySection
from llmcausal.memory.architecture import layer_of
from llmcausal.memory.prediction import kept_of
from llmcausal.memory.workload import Tokens

_READS_EMBEDDING = ("q_proj", "k_proj", "v_proj", "qkv_proj")
"""Linear layers of the first block whose input needs no gradient: it is the embedding."""


@dataclass(frozen=True)
class ModelShape:
    """The dimensions that decide a model's FLOPs."""

    linears: dict[str, tuple[int, int]]  # decoder's linear layers: input and output width, by name
    layers: int
    attention_width: int  # heads times head width
    width: int
    vocabulary: int  # rows of the head
    element_bytes: int  # of a value in the compute dtype
    last: str | None  # linear layer whose output is a layer's, but for a sum; None: a norm reads it


def model_shape(model: Any, element_bytes: int) -> ModelShape:
    """Reads the dimensions of a transformers model, which may be on the meta device."""
    text = model.config.get_text_config()
    head = model.get_output_embeddings()
    linears = {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    heads = text.num_attention_heads
    head_width = getattr(text, "head_dim", None) or text.hidden_size // heads
    normed = any(
        "post_feedforward" in name or "post_mlp" in name for name, _ in model.named_modules()
    )
    return ModelShape(
        linears=linears,
        layers=text.num_hidden_layers,
        attention_width=heads * head_width,
        width=text.hidden_size,
        vocabulary=text.vocab_size,
        element_bytes=element_bytes,
        last=None if normed else "down_proj",
    )


@dataclass(frozen=True)
class StepCost:
    """One micro-batch's forward and backward pass."""

    flops: dict[str, float]  # by part; a multiply and an add count as two
    moved_bytes: float  # between host and device, both ways

    @property
    def total_flops(self) -> float:
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

    Frozen weights get no gradient, and the first layer's input needs none without an adversary. The
    count leaves out the optimizer, norms, element-wise operations and dequantization. The naive
    recipe has a pass per member with all logits, and no adversary.
    """
    if tokens.attack is None or naive:
        return _pass(shape, tokens, section, lora, naive=naive)
    cost = _pass(shape, tokens, section, lora, moves=True)
    attack = _pass(shape, tokens.attack, section, lora)
    flops = {**cost.flops, "adversary": attack.total_flops}
    return StepCost(flops, cost.moved_bytes + attack.moved_bytes)


def _pass(
    shape: ModelShape,
    tokens: Tokens,
    section: MemorySection,
    lora: LoraSection,
    *,
    naive: bool = False,
    moves: bool = False,
) -> StepCost:
    """Counts one forward and backward pass; `moves` if embeddings have gradients, too."""
    weights = adapters = first = first_adapters = held = 0
    spared = 0.0
    kept = 0 if naive else kept_of(section, shape.layers)
    for name, (inner, outer) in shape.linears.items():
        module = name.rpartition(".")[2]
        rank = lora.rank if module in lora.target_modules else 0
        weights += inner * outer
        adapters += rank * (inner + outer)
        layer = layer_of(name)
        if layer == 0 and module in _READS_EMBEDDING:
            first += inner * outer
            first_adapters += rank * inner
        # Chunks of tokens recompute their MLP in any case.
        chunked = section.token_chunk > 0 and ".mlp." in name
        if layer is not None and layer >= shape.layers - kept and not chunked:
            held += inner * outer + rank * (inner + outer)
        elif module == shape.last and rank and not (lora.dropout or naive):
            spared += inner * outer + rank * outer  # `fused._Kept`: no backward pass reads it
    tree = section.members == "tree" and not naive
    nodes = tokens.nodes if tree else tokens.separate
    pairs = tokens.tree_pairs if tree else tokens.separate_pairs
    labels = tokens.separate if naive else tokens.labels
    chunks = -(-nodes // section.token_chunk) if section.token_chunk and not naive else 1
    if chunks > 1:  # the first one computes it again
        spared *= 1 - 1 / chunks
    attention = 4 * shape.layers * shape.attention_width
    forward = 2 * (weights + adapters) * nodes + attention * pairs
    again = forward - 2 * (held + spared) * nodes - attention * pairs * kept / shape.layers
    passed = weights + 2 * adapters - (0 if moves else first + first_adapters)
    flops = {
        "forward": forward,
        # Input gradients of all layers but the first, and the adapters' weight gradients.
        # Attention computes its scores again: five products instead of the forward pass's two.
        "backward": 2 * passed * nodes + 2.5 * attention * pairs,
        "head": 4 * shape.vocabulary * shape.width * labels,
        "recompute": 0.0 if section.activations == "keep" and not naive else again,
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
        moved += 2 * (shape.layers - kept_of(section, shape.layers)) * state
    if section.embeddings == "host":
        moved += state
    if section.head == "host":  # it crosses once for losses and gradients
        moved += shape.vocabulary * shape.width * shape.element_bytes
    return moved


def measured_flops_per_second(
    device: torch.device, dtype: torch.dtype, *, seconds: float = 0.5
) -> float:
    """Measures a large matrix product's best rate in a compute dtype: no step can be faster."""
    size = 4096 if device.type == "cuda" else 1024
    left = torch.ones(size, size, dtype=dtype, device=device)
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        left @ left
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times[1:])
