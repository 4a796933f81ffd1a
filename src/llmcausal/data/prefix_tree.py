"""Token sequences packed as a trie: every shared prefix is computed once.

A node is one token; it attends to its ancestors and itself, and its rotary position is its
depth, so its hidden state is exactly that of the same token in the sequence on its own. Nodes are
numbered in depth-first order: the ancestors of `i` are then the nodes `j <= i < subtree_end[j]`,
and the attention mask follows from one integer per node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class PrefixTree:
    """A packed set of sequences.

    Attributes:
        tokens: Token id of each node [nodes].
        depths: Position of each node in its sequences [nodes].
        subtree_ends: One past the last descendant of each node [nodes].
        paths: For each sequence, the node of each of its tokens.
    """

    tokens: Indices
    depths: Indices
    subtree_ends: Indices
    paths: tuple[Indices, ...]

    def __len__(self) -> int:
        """Number of nodes: the tokens that are computed."""
        return len(self.tokens)

    @property
    def sequence_tokens(self) -> int:
        """Tokens that separate passes over the same sequences would compute."""
        return sum(len(path) for path in self.paths)


def pack(sequences: Sequence[Sequence[int]]) -> PrefixTree:
    """Packs sequences into one trie.

    Args:
        sequences: Token ids of each sequence; duplicates and prefixes of one another are fine.
    """
    tokens: list[int] = []
    depths: list[int] = []
    parents: list[int] = []
    children: dict[tuple[int, int], int] = {}
    raw_paths: list[list[int]] = []
    for sequence in sequences:
        node, path = -1, []
        for depth, token in enumerate(sequence):
            child = children.get((node, token))
            if child is None:
                child = children[node, token] = len(tokens)
                tokens.append(token)
                depths.append(depth)
                parents.append(node)
            node = child
            path.append(node)
        raw_paths.append(path)
    order, sizes = _depth_first(parents)
    by_order = np.empty(len(tokens), dtype=np.int64)
    by_order[order] = np.arange(len(tokens))
    return PrefixTree(
        tokens=np.asarray(tokens, dtype=np.int64)[by_order],
        depths=np.asarray(depths, dtype=np.int64)[by_order],
        subtree_ends=(order + sizes)[by_order],
        paths=tuple(order[np.asarray(path, dtype=np.int64)] for path in raw_paths),
    )


def _depth_first(parents: Sequence[int]) -> tuple[Indices, Indices]:
    """Depth-first number and subtree size of each node; parents come before their children."""
    count = len(parents)
    sizes = np.ones(count, dtype=np.int64)
    for node in range(count - 1, -1, -1):
        if parents[node] >= 0:
            sizes[parents[node]] += sizes[node]
    order = np.zeros(count, dtype=np.int64)
    next_free = np.zeros(count + 1, dtype=np.int64)  # the last entry is the root's (parent -1)
    for node, parent in enumerate(parents):
        order[node] = next_free[parent]
        next_free[parent] += sizes[node]
        next_free[node] = order[node] + 1
    return order, sizes
