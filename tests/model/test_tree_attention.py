"""What attention over a tree keeps for its backward pass."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel

from llmcausal.data import attention_blocks
from llmcausal.data.attention_blocks import plan_blocks
from llmcausal.data.prefix_tree import pack
from llmcausal.model import tree_attention
from llmcausal.model.tree_attention import MaskedBlock, mask_blocks, tree_attention_forward
from llmcausal.model.tree_attention_cpu import attends_on_cpu

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


SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=6)


@given(SEQUENCES, st.sampled_from([None, 0.3]), st.sampled_from([(4, 2), (3, 3)]))
def test_on_a_cpu_the_same_as_torchs_own(
    sequences: list[list[int]], scale: float | None, heads: tuple[int, int]
) -> None:
    """Equal gradients, where keys are gathered again and where autograd kept them."""
    tree = pack(sequences)
    previous = attention_blocks.BLOCK_OVERHEAD_PAIRS
    attention_blocks.BLOCK_OVERHEAD_PAIRS = 0  # as many blocks as there can be
    try:
        planned = plan_blocks(tree.subtree_ends, tree.depths)
    finally:
        attention_blocks.BLOCK_OVERHEAD_PAIRS = previous
    blocks = mask_blocks(planned, torch.tensor(tree.subtree_ends), torch.float64)
    random = torch.Generator().manual_seed(len(tree))
    states = [
        torch.randn(1, count, len(tree), 8, generator=random, dtype=torch.float64).requires_grad_()
        for count in (heads[0], heads[1], heads[1])
    ]
    upstream = torch.randn(1, len(tree), heads[0], 8, generator=random, dtype=torch.float64)
    found = []
    for on_cpu in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not on_cpu:
                patch.setattr(tree_attention, "attends_on_cpu", lambda *_: False)
            output, _ = tree_attention_forward(
                torch.nn.Module(), *states, None, scaling=scale, tree_blocks=blocks
            )
        assert (type(output.grad_fn).__name__ == "_TreeAttentionBackward") == on_cpu
        found.append([output.detach(), *torch.autograd.grad(output, states, upstream)])
    for own, torchs in zip(*found, strict=True):
        torch.testing.assert_close(own, torchs, rtol=1e-12, atol=1e-13)


def test_dropout_and_other_kernels_are_torchs_own() -> None:
    query, key = (torch.randn(1, n, NODES, WIDTH, requires_grad=True) for n in (HEADS, KEY_HEADS))
    assert attends_on_cpu(query, key, 0.0)
    assert not attends_on_cpu(query, key, 0.1)
    assert not attends_on_cpu(query, torch.randn(1, KEY_HEADS, NODES, 4), 0.0)
    with torch.no_grad():
        assert not attends_on_cpu(query, key, 0.0)
    with sdpa_kernel(SDPBackend.MATH):
        assert not attends_on_cpu(query, key, 0.0)
