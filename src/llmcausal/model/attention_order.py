"""Attention's backward pass on CUDA in one order of summation, so that a step can be repeated.

Flash and memory-efficient attention add a query's gradients with atomics, in whatever order blocks
finish, unless torch's deterministic mode is on and raises. For the whole backward pass that mode
costs more than order: cuBLAS then refuses to work without a workspace setting. So it is on while
the attention node itself runs, and no longer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ON = "cuda"
_NODE = "ScaledDotProduct"
_VIEWS = 4
"""Most nodes between attention's own and what its callers return: a slice, a transpose, a copy."""


def in_fixed_order(attended: Tensor) -> Tensor:
    """Makes the backward pass of the attention that made a tensor add in one order, on CUDA.

    Args:
        attended: As `scaled_dot_product_attention` or transformers' wrapper of it returns it.
    """
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
