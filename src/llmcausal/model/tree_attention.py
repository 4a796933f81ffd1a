"""Attention over a prefix tree, block by block; registered with transformers by name.

A decoder that is given `tree_blocks=` runs `scaled_dot_product_attention` once per block, on the
keys that the block's rows can see. Without it (generation, plain sequences) it is transformers'
own SDPA attention.

On CUDA the backward pass adds in one order, so that a step can be repeated. Flash and
memory-efficient attention add a query's gradients with atomics, in whatever order blocks finish,
unless torch's deterministic mode is on and raises. For the whole backward pass that mode costs more
than order: cuBLAS then refuses to work without a workspace setting. So it is on only while the
attention node runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.backends.cuda import SDPAParams, can_use_flash_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import (
    repeat_kv,
    sdpa_attention_forward,
    use_gqa_in_sdpa,
)
from transformers.masking_utils import sdpa_mask

from llmcausal.data.prefix_tree import AttentionBlock, Run

TREE_ATTENTION = "llmcausal_tree"
ON = "cuda"
_NODE = "ScaledDotProduct"
_VIEWS = 4
"""Most nodes between attention's own and what its callers return: a slice, a transpose, a copy."""


@dataclass(frozen=True)
class MaskedBlock:
    """A block with what hides the rows of one branch from another."""

    rows: Run  # the nodes [start, end)
    # Runs of nodes that are visible to some row, in order; the rows themselves last.
    keys: tuple[Run, ...]
    # Added to the scores, [1, 1, rows, keys]; None if plain causal attention is the same.
    mask: Tensor | None


class TreeBlocks(Sequence[MaskedBlock]):
    """The blocks of a tree for queries of a dtype, with masks that are built on first use."""

    def __init__(
        self, blocks: Sequence[AttentionBlock], subtree_ends: Tensor, dtype: torch.dtype
    ) -> None:
        self.subtree_ends = subtree_ends  # one past the last descendant of each node [nodes]
        self._planned = blocks
        self._dtype = dtype

    @cached_property
    def _masked(self) -> list[MaskedBlock]:
        masked = []
        for block in self._planned:
            start, end = block.rows
            index = torch.arange(start, end, device=self.subtree_ends.device)
            ends = self.subtree_ends[start:end]
            visible = (index[None] <= index[:, None]) & (index[:, None] < ends[None])
            above = sum(stop - begin for begin, stop in block.ancestors)
            if block.unbranched and not above:
                masked.append(MaskedBlock(block.rows, (block.rows,), None))
                continue
            shape = (end - start, above + end - start)
            mask = torch.zeros(shape, dtype=self._dtype, device=ends.device)
            mask[:, above:].masked_fill_(~visible, float("-inf"))
            masked.append(MaskedBlock(block.rows, (*block.ancestors, block.rows), mask[None, None]))
        return masked

    def __len__(self) -> int:
        return len(self._planned)

    def __getitem__(self, index: Any) -> Any:
        return self._masked[index]


def tree_attention_forward(  # noqa: PLR0913 - transformers' signature
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    tree_blocks: Sequence[MaskedBlock] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attends as transformers' attention functions do, along the tree if `tree_blocks` are given.

    Args:
        query: [1, heads, nodes, head width].
        key: [1, key heads, nodes, head width].
        value: As `key`.
        attention_mask: Used only without `tree_blocks`, as are `kwargs`.

    Returns:
        Outputs [1, nodes, heads, head width], and None.
    """
    if tree_blocks is None:
        output: Tensor = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **kwargs
        )[0]
        return in_fixed_order(output), None
    groups = query.shape[1] // key.shape[1]
    runs = [block.keys for block in tree_blocks]
    queries = query.split([end - start for start, end in (b.rows for b in tree_blocks)], dim=2)
    keys, values = _gather_runs(key, runs), _gather_runs(value, runs)
    outputs = []
    for block, q, k, v in zip(tree_blocks, queries, keys, values, strict=True):
        # What the kernel is given stays for the backward pass: key heads as few as it takes.
        few = _takes_few_heads(q, k, v, block.mask, dropout)
        attended = scaled_dot_product_attention(
            q,
            k if few else repeat_kv(k, groups),
            v if few else repeat_kv(v, groups),
            attn_mask=block.mask,
            dropout_p=dropout,
            scale=scaling,
            is_causal=block.mask is None,
            enable_gqa=few,
        )
        outputs.append(in_fixed_order(attended).transpose(1, 2))
    return torch.cat(outputs, dim=1), None


def _takes_few_heads(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> bool:
    """Tells whether a kernel takes fewer key heads than queries without making all scores."""
    if mask is not None or q.device.type != "cuda":
        return use_gqa_in_sdpa(mask, k, v)
    return can_use_flash_attention(SDPAParams(q, k, v, None, dropout, True, True))


class _GatherRuns(torch.autograd.Function):
    """Joins each block's runs of nodes out of [1, heads, nodes, width]; one run is not copied.

    Gradients are added into one tensor, run by run: a slice's own backward makes a whole tensor
    of zeros for every slice, and an index adds in no fixed order on CUDA.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, blocks: Sequence[Sequence[Run]]) -> tuple[Tensor, ...]:
        ctx.blocks = blocks
        ctx.shape = states.shape
        parts = [[states[:, :, start:end] for start, end in runs] for runs in blocks]
        return tuple(each[0] if len(each) == 1 else torch.cat(each, dim=2) for each in parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].new_zeros(ctx.shape)
        for runs, gradient in zip(ctx.blocks, gradients, strict=True):
            parts = gradient.split([end - start for start, end in runs], dim=2)
            for (start, end), part in zip(runs, parts, strict=True):
                total[:, :, start:end] += part
        return total, None


def _gather_runs(states: Tensor, blocks: Sequence[Sequence[Run]]) -> tuple[Tensor, ...]:
    gathered: tuple[Tensor, ...] = _GatherRuns.apply(states, blocks)  # type: ignore[no-untyped-call]
    return gathered


def in_fixed_order(attended: Tensor) -> Tensor:
    """Makes attention, whose output this is, add in one order in its backward pass on CUDA."""
    if attended.device.type == ON and (node := _attention_node(attended)) is not None:
        _hold_order(node)
    return attended


def end_fixed_order() -> None:
    """Leaves deterministic mode where a backward pass failed inside attention."""
    torch.set_deterministic_debug_mode("default")


def _attention_node(attended: Tensor) -> Any:
    node: Any = attended.grad_fn
    for _ in range(_VIEWS):
        if node is None or node.name().startswith(_NODE):
            return node
        node = node.next_functions[0][0] if node.next_functions else None
    return None


def _hold_order(node: Any) -> None:
    def begin(_gradients: Any) -> None:
        torch.set_deterministic_debug_mode("error")

    def end(_inputs: Any, _outputs: Any) -> None:
        end_fixed_order()

    node.register_prehook(begin)
    node.register_hook(end)


AttentionInterface.register(TREE_ATTENTION, tree_attention_forward)
AttentionMaskInterface.register(TREE_ATTENTION, sdpa_mask)
