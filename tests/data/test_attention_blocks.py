"""Blocks cover every node once, and each row sees its ancestors and itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmcausal.data.prefix_tree import attention_blocks, pack

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=8)


@given(SEQUENCES)
def test_the_last_rows_of_a_block_see_the_last_keys(sequences: list[list[int]]) -> None:
    tree = pack(sequences)
    blocks = attention_blocks(tree.subtree_ends)
    assert [node for block in blocks for node in range(*block.rows)] == list(range(len(tree)))
    for block in blocks:
        keys = [node for run in block.keys for node in range(*run)]
        hidden = range(block.rows[1] - block.rows[0] - 1, -1, -1)
        for row, last in zip(range(*block.rows), hidden, strict=True):
            seen = [node for node in range(row + 1) if row < tree.subtree_ends[node]]
            assert keys[: len(keys) - last] == seen


def test_a_block_is_as_long_as_it_can_be_and_its_keys_are_few_runs() -> None:
    tree = pack([[1, 2, 3, 4], [1, 2, 5, 5, 5], [7, 7]])
    blocks = [(block.rows, block.keys) for block in attention_blocks(tree.subtree_ends)]
    assert blocks == [
        ((0, 2), ((0, 2),)),
        ((2, 4), ((0, 4),)),  # next to its ancestors
        ((4, 7), ((0, 2), (4, 7))),
        ((7, 9), ((7, 9),)),
    ]
