"""Blocks cover every node once, show each row its ancestors, and cost no more than one mask."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmcausal.data import prefix_tree
from llmcausal.data.prefix_tree import pack, plan_blocks

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=8)


@given(SEQUENCES, st.sampled_from([0, 5, 40, 2048]))
def test_blocks_are_exact_and_cheap(sequences: list[list[int]], overhead: int) -> None:
    tree = pack(sequences)
    previous = prefix_tree.BLOCK_OVERHEAD_PAIRS
    prefix_tree.BLOCK_OVERHEAD_PAIRS = overhead
    try:
        blocks = plan_blocks(tree.subtree_ends, tree.depths)
    finally:
        prefix_tree.BLOCK_OVERHEAD_PAIRS = previous
    covered = [node for block in blocks for node in range(*block.rows)]
    assert covered == list(range(len(tree)))
    pairs = 0
    for block in blocks:
        start, end = block.rows
        above = [node for run in block.ancestors for node in range(*run)]
        expected = [n for n in range(start) if start < tree.subtree_ends[n]]
        assert above == expected  # each is an ancestor of every row, and none is missing
        assert all(tree.subtree_ends[n] >= end for n in above)
        for row in range(start, end):  # what else a row sees lies inside the block
            assert all(n >= start or n in above for n in range(row) if row < tree.subtree_ends[n])
        pairs += (end - start) * (len(above) + end - start)
    roots = sum(1 for depth in tree.depths if depth == 0)
    assert pairs + overhead * len(blocks) <= len(tree) ** 2 + overhead * roots
