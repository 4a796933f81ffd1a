"""Sequences as a tree of their common prefixes, and the blocks that attention reads of it.

A node is one token; it attends to its ancestors and itself, and its rotary position is its
depth, so its hidden state is exactly that of the same token in the sequence on its own. Nodes are
numbered in depth-first order: the ancestors of `i` are then the nodes `j <= i < subtree_end[j]`,
and the attention mask follows from one integer per node.

Which keys each run of tree nodes has to see, so that attention skips what is masked anyway.

In a tree of several triplets most pairs of nodes are strangers. Nodes are numbered depth-first,
so a subtree is a run of nodes, and everything outside it that it sees is the path to its root.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise

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
    rows = [tuple(sequence) for sequence in sequences]
    root = _Run((), 0, 0, None)
    last_runs = [_insert(root, row) for row in rows]
    runs = _number(root)
    lengths = [run.end - run.start for run in runs]
    return PrefixTree(
        tokens=_joined(run.tokens[run.start : run.end] for run in runs),
        depths=_joined(range(run.start, run.end) for run in runs),
        subtree_ends=np.repeat(np.asarray([run.subtree_end for run in runs], np.int64), lengths),
        paths=tuple(_path(run, len(row)) for run, row in zip(last_runs, rows, strict=True)),
    )


@dataclass(eq=False, slots=True)
class _Run:
    """Nodes with no branch between them; merging the trie's nodes so makes it a radix tree.

    Attributes:
        tokens: A sequence that goes through it.
        start: Depth of its first node.
        end: One past the depth of its last node.
        parent: The run that it branches off from.
        children: By first token, in the order in which they came.
        first: Number of its first node.
        subtree_end: One past the number of the last node below it.
    """

    tokens: tuple[int, ...]
    start: int
    end: int
    parent: _Run | None
    children: dict[int, _Run] = field(default_factory=dict)
    first: int = 0
    subtree_end: int = 0


def _insert(root: _Run, row: tuple[int, ...]) -> _Run:
    """Adds a sequence; returns the run that holds its last token."""
    run, depth = root, 0
    while depth < len(row):
        child = run.children.get(row[depth])
        if child is None and run is not root and not run.children:
            run.tokens, run.end = row, len(row)
            return run
        if child is None:
            child = run.children[row[depth]] = _Run(row, depth, len(row), run)
            return child
        end = min(child.end, len(row))
        same = _first_difference(child.tokens, row, depth, end)
        run, depth = (child if same == end else _split(child, same)), same
    return run


def _first_difference(one: Sequence[int], other: Sequence[int], start: int, end: int) -> int:
    """Returns the first place in [start, end) where two sequences differ, or `end`."""
    if one[start:end] == other[start:end]:
        return end
    return next(place for place in range(start, end) if one[place] != other[place])


def _split(run: _Run, depth: int) -> _Run:
    """Cuts a run in two; returns the upper one. The object stays the lower one."""
    assert run.parent is not None
    upper = _Run(run.tokens, run.start, depth, run.parent, {run.tokens[depth]: run})
    run.parent.children[run.tokens[run.start]] = upper
    run.parent, run.start = upper, depth
    return upper


def _number(root: _Run) -> list[_Run]:
    """Numbers all nodes depth-first; returns the runs in that order, without the root."""
    order, waiting, count = [], [*reversed(root.children.values())], 0
    while waiting:
        run = waiting.pop()
        run.first = count
        count += run.end - run.start
        order.append(run)
        waiting += reversed(run.children.values())
    for run in reversed(order):
        last = next(reversed(run.children.values()), None)
        run.subtree_end = last.subtree_end if last else run.first + run.end - run.start
    return order


def _path(run: _Run, length: int) -> Indices:
    """Returns the nodes of the first `length` tokens down to a run, which may go on further."""
    parts: list[range] = []
    at: _Run | None = run
    while at is not None:
        # Where a sequence ended inside a run that was split later, `run` lies below its end.
        parts.append(range(at.first, at.first + max(0, min(at.end, length) - at.start)))
        at = at.parent
    return _joined(reversed(parts))


def _joined(parts: Iterable[Sequence[int]]) -> Indices:
    return np.fromiter(chain.from_iterable(parts), np.int64)


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
