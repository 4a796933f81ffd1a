"""Attention over a prefix tree, block by block; registered with transformers by name.

A decoder that gets `tree_blocks=` attends once for each unbranched run of nodes: causally, with the
run's last row aligned at its last key. Flash and memory-efficient attention do that without a mask.
Where neither runs (on a CPU, in fp64) a mask hides later rows. A sequence without `tree_blocks` is
one such run. If it has a mask or a cache, transformers' own SDPA attention computes it.

On CUDA the backward pass adds in one order, so that a step can be repeated. Without torch's
deterministic mode, set to raise, both kernels add a query's gradients in the order in which blocks
finish. For the whole backward pass that mode costs more than order: cuBLAS then refuses to work
without a workspace setting. So it is on only while the attention node runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.backends import cuda
from torch.nn.attention.bias import CausalVariant
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from llmcausal.data.prefix_tree import AttentionBlock, Run

TREE_ATTENTION = "llmcausal_tree"
ON = "cuda"
_NODES = ("ScaledDotProduct", "EfficientAttention")
_VIEWS = 4
"""Most nodes between attention's own and what its callers return: a slice, a transpose, a copy."""
_FLASH_WIDTHS = 8
"""Flash attention takes heads whose width is a multiple of this."""
_NO_SEQUENCES = (None,) * 5
"""Bias, and starts and lengths of sequences in one row: arguments of memory-efficient attention."""
_CHANGES = ("softcap", "position_bias")
"""Arguments that change the scores; transformers refuses or adds them."""

Masks = dict[int, Tensor]
"""Masks by their block's number. Blocks of one size have masks of their own: real lengths differ,
and a prediction with equal lengths must not need less."""


@dataclass(frozen=True)
class TreeBlocks:
    """How attention over one tree is cut, with the masks that all layers share."""

    blocks: Sequence[AttentionBlock]
    subtree_ends: Tensor  # one past the last descendant of each node [nodes]
    masks: Masks = field(default_factory=dict)


def tree_attention_forward(  # noqa: PLR0913 - transformers' signature
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    tree_blocks: TreeBlocks | None = None,
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
        plain = attention_mask is None and all(kwargs.get(name) is None for name in _CHANGES)
        if plain and query.shape[2] == key.shape[2]:
            return _attend(query, key, value, dropout, scaling).transpose(1, 2), None
        output: Tensor = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **kwargs
        )[0]
        return in_fixed_order(output), None
    runs = [block.keys for block in tree_blocks.blocks]
    rows = [block.rows[1] - block.rows[0] for block in tree_blocks.blocks]
    keys, values = (_GatherRuns.apply(each, runs) for each in (key, value))  # type: ignore[no-untyped-call]
    cut = zip(query.split(rows, dim=2), keys, values, strict=True)
    outputs = [
        _attend(*each, dropout, scaling, tree_blocks.masks, index).transpose(1, 2)
        for index, each in enumerate(cut)
    ]
    return torch.cat(outputs, dim=1), None


def _attend(  # noqa: PLR0913 - tensors as torch's attention takes them
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout: float,
    scaling: float | None,
    masks: Masks | None = None,
    block: int = 0,
) -> Tensor:
    """Attends causally, the last row aligned at the last key; without a mask if a kernel can."""
    fits = q.shape[-1] % _FLASH_WIDTHS == 0
    if fits and cuda.can_use_flash_attention(cuda.SDPAParams(q, k, v, None, dropout, False, True)):
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        return in_fixed_order(flash(q, k, v, dropout, True, scale=scaling)[0])
    # Asked about queries alone: keys and values get as many heads, since no kernel but flash takes
    # fewer of them.
    asked = cuda.SDPAParams(q, q, q, None, dropout, False, False)
    if cuda.can_use_efficient_attention(asked) and _takes_as_they_are(q, k, v):
        k, v = (repeat_kv(each, q.shape[1] // k.shape[1]) for each in (k, v))
        turned = [each.transpose(1, 2) for each in (q, k, v)]
        kept = any(each.requires_grad for each in turned)
        efficient = torch.ops.aten._efficient_attention_forward
        aligned = int(CausalVariant.LOWER_RIGHT)
        output = efficient(*turned, *_NO_SEQUENCES, dropout, aligned, kept, scale=scaling)[0]
        return in_fixed_order(output.transpose(1, 2))
    rows, keys = q.shape[2], k.shape[2]
    masks = {} if masks is None else masks
    if rows < keys and block not in masks:
        hidden = q.new_full((rows, keys), float("-inf"))
        masks[block] = hidden.triu_(keys - rows + 1)
    return in_fixed_order(
        scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=masks.get(block),
            dropout_p=dropout,
            scale=scaling,
            is_causal=rows == keys,
            enable_gqa=q.shape[1] > k.shape[1],
        )
    )


def _takes_as_they_are(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the kernel may get these tensors: torch's own attention casts them under autocast."""
    casts = q.dtype == torch.float32 and torch.is_autocast_enabled(q.device.type)
    return q.dtype == k.dtype == v.dtype and not casts


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


def in_fixed_order(attended: Tensor) -> Tensor:
    """Makes the backward pass of this attention add in one order on CUDA."""
    if attended.device.type == ON and (node := _attention_node(attended)) is not None:
        _hold_order(node)
    return attended


def end_fixed_order() -> None:
    """Leaves deterministic mode where a backward pass failed inside attention."""
    torch.set_deterministic_debug_mode("default")


def _attention_node(attended: Tensor) -> Any:
    node: Any = attended.grad_fn
    for _ in range(_VIEWS):
        if node is None or node.name().startswith(_NODES):
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
