"""Attention over a prefix tree, block by block; registered with transformers by name.

A decoder that is given `tree_blocks=` runs `scaled_dot_product_attention` once per block, on the
keys that the block's rows can see. Without it (generation, plain sequences) it is transformers'
own SDPA attention.
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

from llmcausal.data.attention_blocks import AttentionBlock, Run

TREE_ATTENTION = "llmcausal_tree"


@dataclass(frozen=True)
class MaskedBlock:
    """A block with what hides the rows of one branch from another.

    Attributes:
        rows: The nodes [start, end).
        keys: Runs of nodes that are visible to some row, in order; the rows themselves last.
        mask: Added to the scores, [1, 1, rows, keys]; None if plain causal attention is the same.
    """

    rows: Run
    keys: tuple[Run, ...]
    mask: Tensor | None


class TreeBlocks(Sequence[MaskedBlock]):
    """The blocks of a tree, with masks that are built once asked for.

    Attributes:
        subtree_ends: One past the last descendant of each node [nodes].
    """

    def __init__(
        self, blocks: Sequence[AttentionBlock], subtree_ends: Tensor, dtype: torch.dtype
    ) -> None:
        self.subtree_ends = subtree_ends
        self._planned = blocks
        self._dtype = dtype

    @cached_property
    def _masked(self) -> list[MaskedBlock]:
        return mask_blocks(self._planned, self.subtree_ends, self._dtype)

    def __len__(self) -> int:
        return len(self._planned)

    def __getitem__(self, index: Any) -> Any:
        return self._masked[index]


def mask_blocks(
    blocks: Sequence[AttentionBlock], subtree_ends: Tensor, dtype: torch.dtype
) -> list[MaskedBlock]:
    """Builds each block's mask once, for all layers.

    Args:
        blocks: From `plan_blocks`.
        subtree_ends: One past the last descendant of each node [nodes].
        dtype: Of the queries.
    """
    masked = []
    for block in blocks:
        start, end = block.rows
        index = torch.arange(start, end, device=subtree_ends.device)
        ends = subtree_ends[start:end]
        visible = (index[None] <= index[:, None]) & (index[:, None] < ends[None])
        above = sum(stop - begin for begin, stop in block.ancestors)
        if block.unbranched and not above:
            masked.append(MaskedBlock(block.rows, (block.rows,), None))
            continue
        mask = torch.zeros(end - start, above + end - start, dtype=dtype, device=ends.device)
        mask[:, above:].masked_fill_(~visible, float("-inf"))
        masked.append(MaskedBlock(block.rows, (*block.ancestors, block.rows), mask[None, None]))
    return masked


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
    """Attends as transformers' attention functions do; see the module's docstring.

    Args:
        module: The attention module.
        query: [1, heads, nodes, head width].
        key: [1, key heads, nodes, head width].
        value: As `key`.
        attention_mask: Used only without `tree_blocks`.
        dropout: Dropout of the attention weights.
        scaling: Factor on the scores.
        tree_blocks: From `mask_blocks`.
        **kwargs: Passed on to SDPA attention.

    Returns:
        Outputs [1, nodes, heads, head width], and None.
    """
    if tree_blocks is None:
        output: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **kwargs
        )
        return output
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
        outputs.append(attended.transpose(1, 2))
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


AttentionInterface.register(TREE_ATTENTION, tree_attention_forward)
AttentionMaskInterface.register(TREE_ATTENTION, sdpa_mask)
