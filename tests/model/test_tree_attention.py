"""What attention over a tree keeps for its backward pass."""

from __future__ import annotations

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from llmcausal.model.tree_attention import MaskedBlock, tree_attention_forward

HEADS, KEY_HEADS, NODES, WIDTH = 8, 2, 12, 16


@pytest.mark.parametrize("blocks", [1, 3])
def test_members_that_share_nothing_keep_no_copy_of_their_keys(blocks: int) -> None:
    query, key, value = (
        torch.randn(1, heads, NODES, WIDTH, requires_grad=True)
        for heads in (HEADS, KEY_HEADS, KEY_HEADS)
    )
    given = {each.untyped_storage().data_ptr() for each in (query, key, value)}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    size = NODES // blocks
    rows = [(start, start + size) for start in range(0, NODES, size)]
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        tree_attention_forward(
            torch.nn.Module(), query, key, value, None,
            tree_blocks=[MaskedBlock(each, (each,), None) for each in rows],
        )  # fmt: skip
    own = sum(size for storage, size in kept.items() if storage not in given)
    outputs, sums = 4 * HEADS * NODES * WIDTH, 4 * HEADS * NODES
    assert own == outputs + sums
