"""The trie against its definition: one node per distinct prefix, ancestors only are seen."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmcausal.data.prefix_tree import pack

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=8)


@given(SEQUENCES)
def test_one_node_for_each_distinct_prefix(sequences: list[list[int]]) -> None:
    tree = pack(sequences)
    prefixes = {tuple(s[:end]) for s in sequences for end in range(1, len(s) + 1)}
    assert len(tree) == len(prefixes)
    for sequence, path in zip(sequences, tree.paths, strict=True):
        assert tree.tokens[path].tolist() == sequence
        assert tree.depths[path].tolist() == list(range(len(sequence)))


@given(SEQUENCES)
def test_a_node_sees_exactly_its_ancestors(sequences: list[list[int]]) -> None:
    tree = pack(sequences)
    prefix_of: dict[int, tuple[int, ...]] = {}
    for sequence, path in zip(sequences, tree.paths, strict=True):
        for end, node in enumerate(path, start=1):
            prefix_of[int(node)] = tuple(sequence[:end])
    index = np.arange(len(tree))
    sees = (index[None] <= index[:, None]) & (index[:, None] < tree.subtree_ends[None])
    for i in index:
        for j in index:
            ancestor = prefix_of[i][: len(prefix_of[j])] == prefix_of[j]
            assert sees[i, j] == ancestor
