"""Attention over a prefix tree on the CPU, keeping no copy of the keys that branches share.

Gathered and repeated, the keys and values of every block are what attention keeps most of. Here
queries, keys, values and outputs are kept once, and each block's are gathered again for its
gradient. The kernel is the one that `scaled_dot_product_attention` chooses on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers.integrations.sdpa_attention import repeat_kv

from llmcausal.data.attention_blocks import Run
from llmcausal.model.node_runs import add_runs, join_runs

if TYPE_CHECKING:
    from llmcausal.model.tree_attention import MaskedBlock

_attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_attend_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def attends_on_cpu(query: Tensor, value: Tensor, dropout: float) -> bool:
    """Tells whether `attend_on_cpu` computes the same as SDPA, and saves memory."""
    recorded = torch.is_grad_enabled() and query.requires_grad
    alike = query.shape[-1] == value.shape[-1] and not dropout
    flash = torch.backends.cuda.flash_sdp_enabled()  # SDPA's switch, whatever the device
    return query.device.type == "cpu" and recorded and alike and flash


def attend_on_cpu(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    blocks: Sequence[MaskedBlock],
    scale: float | None,
) -> Tensor:
    """Attends block by block.

    Args:
        query: [1, heads, nodes, head width].
        key: [1, key heads, nodes, head width].
        value: As `key`.
        blocks: From `mask_blocks`; together they are all nodes, in order.
        scale: Factor on the scores; None is 1 / sqrt(head width).

    Returns:
        Outputs [1, nodes, heads, head width].
    """
    attended: Tensor = _TreeAttention.apply(query, key, value, blocks, scale)  # type: ignore[no-untyped-call]
    return attended


class _TreeAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        blocks: Sequence[MaskedBlock],
        scale: float | None,
    ) -> Tensor:
        output = query.new_empty(1, query.shape[2], query.shape[1], query.shape[3])
        groups = query.shape[1] // key.shape[1]
        sums = []
        for block in blocks:
            start, end = block.rows
            attended, logsumexp = _attend(
                query[:, :, start:end],
                _seen(key, block.keys, groups),
                _seen(value, block.keys, groups),
                0.0,
                block.mask is None,
                attn_mask=block.mask,
                scale=scale,
            )
            output[:, start:end] = attended.transpose(1, 2)
            sums.append(logsumexp)
        ctx.save_for_backward(query, key, value, output, *sums)
        ctx.blocks, ctx.scale = blocks, scale
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, *sums = ctx.saved_tensors
        groups = query.shape[1] // key.shape[1]
        of_query = torch.empty_like(query)
        of_key, of_value = torch.zeros_like(key), torch.zeros_like(value)
        for block, logsumexp in zip(ctx.blocks, sums, strict=True):
            start, end = block.rows
            found = _attend_backward(
                upstream[0][:, start:end].transpose(1, 2),
                query[:, :, start:end],
                _seen(key, block.keys, groups),
                _seen(value, block.keys, groups),
                output[:, start:end].transpose(1, 2),
                logsumexp,
                0.0,
                block.mask is None,
                attn_mask=block.mask,
                scale=ctx.scale,
            )
            of_query[:, :, start:end] = found[0]
            _add_seen(of_key, found[1], block.keys, groups)
            _add_seen(of_value, found[2], block.keys, groups)
        return of_query, of_key, of_value, None, None


def _seen(states: Tensor, runs: Sequence[Run], groups: int) -> Tensor:
    """Returns the nodes that a block sees, a copy for every query head."""
    gathered: Tensor = repeat_kv(join_runs(states, runs), groups)
    return gathered


def _add_seen(total: Tensor, gradient: Tensor, runs: Sequence[Run], groups: int) -> None:
    """Adds the gradient of what `_seen` returned to that of all nodes."""
    of_heads = gradient.unflatten(1, (-1, groups)).sum(dim=2) if groups > 1 else gradient
    add_runs(total, of_heads, runs)
