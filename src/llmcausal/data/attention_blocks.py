"""Which keys each run of tree nodes has to see, so that attention skips what is masked anyway.

In a tree of several triplets most pairs of nodes are strangers. Nodes are numbered depth-first,
so a subtree is a run of nodes, and everything outside it that it sees is the path to its root.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from llmcausal.data.prefix_tree import Indices

BLOCK_OVERHEAD_PAIRS = 2048
"""What starting one more block costs, in query-key pairs."""

Run = tuple[int, int]


@dataclass(frozen=True)
class AttentionBlock:
    """Rows computed together.

    Attributes:
        rows: The nodes [start, end).
        ancestors: Runs of nodes that every row sees, in order.
        unbranched: Whether each row sees all rows before it.
    """

    rows: Run
    ancestors: tuple[Run, ...]
    unbranched: bool


def plan_blocks(subtree_ends: Indices, depths: Indices) -> list[AttentionBlock]:
    """Cuts a tree into blocks with the fewest query-key pairs, counting each block's start.

    Each subtree is either one block, or its unbranched trunk is a block and its branches are
    planned on their own; the cheaper is taken, from the leaves up.

    Args:
        subtree_ends: One past the last descendant of each node [nodes].
        depths: Depth of each node [nodes].

    Returns:
        Blocks that cover every node once, in order.
    """
    planner = _Planner(subtree_ends, depths)
    return planner.blocks(0, len(subtree_ends), ())


class _Planner:
    def __init__(self, ends: Indices, depths: Indices) -> None:
        self.ends: list[int] = ends.tolist()
        self.depths: list[int] = depths.tolist()
        self.trunk_end = self._trunk_ends(ends)
        self.cost: dict[int, int] = {}
        for start in reversed(self.trunk_end):
            self.cost[start] = min(self._whole(start), self._split(start))

    @staticmethod
    def _trunk_ends(ends: Indices) -> dict[int, int]:
        """Finds unbranched runs, as long as they go; returns where each one ends, by its start."""
        # A node goes on from the one before it if both have the same last descendant.
        starts = [0, *(np.flatnonzero(np.diff(ends)) + 1).tolist()]
        return dict(pairwise([*starts, len(ends)]))

    def _whole(self, node: int) -> int:
        size = self.ends[node] - node
        return size * (self.depths[node] + size) + BLOCK_OVERHEAD_PAIRS

    def _split(self, node: int) -> int:
        length = self.trunk_end[node] - node
        own = length * (self.depths[node] + length) + BLOCK_OVERHEAD_PAIRS
        return own + sum(
            self.cost[child] for child in self._roots(self.trunk_end[node], self.ends[node])
        )

    def _roots(self, start: int, end: int) -> list[int]:
        roots = []
        while start < end:
            roots.append(start)
            start = self.ends[start]
        return roots

    def blocks(self, start: int, end: int, ancestors: tuple[Run, ...]) -> list[AttentionBlock]:
        found = []
        for root in self._roots(start, end):
            trunk_end, end_of_root = self.trunk_end[root], self.ends[root]
            unbranched = trunk_end == end_of_root
            if unbranched or self._whole(root) <= self.cost[root]:
                found.append(AttentionBlock((root, end_of_root), ancestors, unbranched))
                continue
            found.append(AttentionBlock((root, trunk_end), ancestors, unbranched=True))
            seen = _extended(ancestors, (root, trunk_end))
            found += self.blocks(trunk_end, end_of_root, seen)
        return found


def _extended(runs: tuple[Run, ...], run: Run) -> tuple[Run, ...]:
    if runs and runs[-1][1] == run[0]:
        return (*runs[:-1], (runs[-1][0], run[1]))
    return (*runs, run)
