"""FLOPs of a training step, counted for the tokens at hand, and the floor that they set.

A time follows from these counts and a rate that was measured on the device at hand, or from
measured steps. Nothing here takes a rate from a data sheet.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmcausal.config import MemorySection
from llmcausal.memory.strategies import NAIVE

if TYPE_CHECKING:
    import torch

    from llmcausal.train.batch import TripletBatch

_READS_EMBEDDING = ("q_proj", "k_proj", "v_proj", "qkv_proj")
"""Linear layers of the first block whose input needs no gradient: it is the embedding."""


@dataclass(frozen=True)
class ModelShape:
    """What the FLOPs of a model follow from.

    Attributes:
        linears: Input and output width of each linear layer of the decoder, by full name.
        layers: Decoder layers.
        attention_width: Heads times head width.
        width: Of the hidden state.
        vocabulary: Rows of the head.
        element_bytes: Of one value in the compute dtype.
    """

    linears: dict[str, tuple[int, int]]
    layers: int
    attention_width: int
    width: int
    vocabulary: int
    element_bytes: int

    def weights(self) -> int:
        """Number of weights of the decoder's linear layers."""
        return sum(inner * outer for inner, outer in self.linears.values())

    def adapter_weights(self, rank: int, targets: Sequence[str]) -> int:
        return sum(
            rank * (inner + outer)
            for name, (inner, outer) in self.linears.items()
            if name.rpartition(".")[2] in targets
        )

    def _first_layer(self) -> dict[str, tuple[int, int]]:
        return {
            name: shape
            for name, shape in self.linears.items()
            if ".layers.0." in f".{name}." and name.rpartition(".")[2] in _READS_EMBEDDING
        }


def model_shape(architecture: Any, element_bytes: int) -> ModelShape:
    """Reads the shapes off a model without weights.

    Args:
        architecture: Its transformers config.
        element_bytes: Of one value in the compute dtype.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(architecture)
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
class Tokens:
    """What one micro-batch asks the model to compute, on average over some.

    Attributes:
        triplets: In it.
        nodes: Tokens of its prefix tree.
        tree_pairs: Query-key pairs that attention over the tree computes, masked ones included.
        separate: Tokens of all members run on their own.
        separate_pairs: Query-key pairs of members on their own, masked ones included.
        again: Tokens of the members that `one_by_one` runs twice.
        again_pairs: Query-key pairs of those.
        labels: Positions whose logits are scored.
    """

    triplets: float
    nodes: float
    tree_pairs: float
    separate: float
    separate_pairs: float
    again: float
    again_pairs: float
    labels: float


def count_tokens(batches: Iterable[TripletBatch]) -> Tokens:
    """Counts what packed micro-batches ask for, on average.

    Raises:
        ValueError: Without a batch.
    """
    totals = [0.0] * 8
    number = 0
    for batch in batches:
        number += 1
        for index, value in enumerate(vars(tokens_of(batch)).values()):
            totals[index] += value
    if not number:
        raise ValueError("no batches to count")
    return Tokens(*(total / number for total in totals))


def tokens_of(batch: TripletBatch) -> Tokens:
    """Counts what one packed micro-batch asks for."""
    tree_pairs = 0
    for block in batch.blocks:
        rows = block.rows[1] - block.rows[0]
        keys = rows + sum(end - start for start, end in block.ancestors)
        tree_pairs += rows * keys
    lengths = [len(span.tokens) for span in batch.spans]
    again = [len(span.tokens) for span in batch.spans if span.member != "benign"]
    return Tokens(
        triplets=len(batch),
        nodes=len(batch.tokens),
        tree_pairs=tree_pairs,
        separate=sum(lengths),
        separate_pairs=sum(length**2 for length in lengths),
        again=sum(again),
        again_pairs=sum(length**2 for length in again),
        labels=sum(batch.label_counts.values()),
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
    *,
    rank: int,
    targets: Sequence[str],
    strategy: str = "custom",
) -> StepCost:
    """Counts a micro-batch under the switches of `[memory]`.

    Frozen weights get no gradient, and the first layer's input needs none. The optimizer, norms,
    element-wise operations and the dequantization of weights are not counted: the figure is a
    floor.

    Args:
        shape: Of the model.
        tokens: Of the micro-batch.
        section: The switches.
        rank: Of the adapters.
        targets: Names of the layers that have one.
        strategy: `naive` counts the usual recipe: three passes with all logits.
    """
    naive = strategy == NAIVE
    tree = section.members == "tree" and not naive
    nodes = tokens.nodes if tree else tokens.separate
    pairs = tokens.tree_pairs if tree else tokens.separate_pairs
    labels = tokens.separate if naive else tokens.labels
    first = sum(inner * outer for inner, outer in shape._first_layer().values())
    lora = shape.adapter_weights(rank, targets)
    first_lora = sum(
        rank * inner
        for name, (inner, _) in shape._first_layer().items()
        if name.rpartition(".")[2] in targets
    )
    attention = 4 * shape.layers * shape.attention_width
    forward = 2 * (shape.weights() + lora) * nodes + attention * pairs
    flops = {
        "forward": forward,
        # Input gradients of all layers but the first, weight gradients of the adapters alone;
        # attention computes its scores again: five products where the forward pass has two.
        "backward": 2 * (shape.weights() - first + 2 * lora - first_lora) * nodes
        + 2.5 * attention * pairs,
        "head": 4 * shape.vocabulary * shape.width * labels,
        "recompute": forward if naive or section.activations != "keep" else 0.0,
    }
    if section.members == "one_by_one" and not naive:
        flops["second pass"] = (
            2 * (shape.weights() + lora) * tokens.again + attention * tokens.again_pairs
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
        seconds: Time to spend, after one untimed product.
    """
    import torch

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
        import torch

        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class RunTime:
    """Time of a run, from what was counted and measured.

    Attributes:
        flops_per_triplet: Counted for the data at hand.
        tokens_per_triplet: The same: tokens that are computed.
        triplets: In the whole run, all epochs.
        floor_seconds: The run at the measured rate of a matrix product; None without a rate.
        flops_per_second: That rate.
        estimate_seconds: The run at the pace of the measured steps; None without such.
    """

    flops_per_triplet: float
    tokens_per_triplet: float
    triplets: int
    floor_seconds: float | None
    flops_per_second: float | None
    estimate_seconds: float | None


def run_time(
    cost: StepCost,
    tokens: Tokens,
    triplets: int,
    section: MemorySection,
    *,
    flops_per_second: float | None,
    measured: tuple[float, float] | None = None,
) -> RunTime:
    """Puts counts and measured rates together.

    Args:
        cost: Of an average micro-batch.
        tokens: Of the same.
        triplets: In the whole run.
        section: The switches.
        flops_per_second: Rate of a matrix product on the device that is trained on.
        measured: FLOPs and seconds of steps that were run there.
    """
    per_triplet = cost.total_flops / tokens.triplets
    computed = tokens.nodes if section.members == "tree" else tokens.separate
    estimate = None
    if measured is not None:
        estimate = per_triplet * triplets * measured[1] / measured[0]
    return RunTime(
        flops_per_triplet=per_triplet,
        tokens_per_triplet=computed / tokens.triplets,
        triplets=triplets,
        floor_seconds=None
        if flops_per_second is None
        else per_triplet * triplets / flops_per_second,
        flops_per_second=flops_per_second,
        estimate_seconds=estimate,
    )
