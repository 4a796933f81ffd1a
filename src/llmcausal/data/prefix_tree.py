"""Sequences as a tree of their common prefixes, and the blocks in which attention computes it.

A node is one token. It attends to its ancestors and itself, and its rotary position is its depth,
so its hidden state equals the same token's in the separate sequence. Nodes are numbered in
depth-first order: the ancestors of `i` are the nodes `j <= i < subtree_end[j]`, so one integer per
node gives the attention mask. A subtree is a run of nodes; outside itself it attends only to the
path to its root.
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
        return len(self.tokens)


def pack(sequences: Sequence[Sequence[int]]) -> PrefixTree:
    """Packs sequences of token ids into one trie; they may be equal or prefixes of others."""
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
    """Nodes without a branch between them, at the depths [start, end).

    `tokens` is a sequence through the run; `first` and `subtree_end` are node numbers.
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
            # A leaf that the sequence continues: the run grows instead of getting one child.
            run.tokens, run.end = row, len(row)
            return run
        if child is None:
            child = run.children[row[depth]] = _Run(row, depth, len(row), run)
            return child
        end = min(child.end, len(row))
        same = end
        if child.tokens[depth:end] != row[depth:end]:
            same = next(at for at in range(depth, end) if child.tokens[at] != row[at])
        run, depth = (child if same == end else _split(child, same)), same
    return run


def _split(run: _Run, depth: int) -> _Run:
    """Cuts a run in two and returns the upper one; the object becomes the lower one."""
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
    """Returns the nodes of a sequence of `length` tokens that ends in `run` or above."""
    parts: list[range] = []
    at: _Run | None = run
    while at is not None:
        # If a sequence ends inside a run that was split later, `run` is below its end.
        parts.append(range(at.first, at.first + max(0, min(at.end, length) - at.start)))
        at = at.parent
    return _joined(reversed(parts))


def _joined(parts: Iterable[Sequence[int]]) -> Indices:
    return np.fromiter(chain.from_iterable(parts), np.int64)


def common_length(one: Sequence[object], other: Sequence[object]) -> int:
    """Returns the length of the common prefix of two sequences."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


BLOCK_OVERHEAD_PAIRS = 2048
"""Cost of the start of a block, in query-key pairs."""

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
    """Cuts a tree [nodes] into blocks with the least cost, which cover every node once, in order.

    Each subtree is either one block, or its unbranched trunk is a block and its branches are
    planned on their own; the cheaper counts, from the leaves up.
    """
    planner = _Planner(subtree_ends, depths)
    return planner.blocks(0, len(subtree_ends), ())


class _Planner:
    def __init__(self, ends: Indices, depths: Indices) -> None:
        self.ends: list[int] = ends.tolist()
        self.depths: list[int] = depths.tolist()
        # The end of each longest unbranched run, by its start: a node continues the one before it
        # if both have the same last descendant.
        starts = [0, *(np.flatnonzero(np.diff(ends)) + 1).tolist()]
        self.trunk_end = dict(pairwise([*starts, len(ends)]))
        self.cost: dict[int, int] = {}
        for start in reversed(self.trunk_end):
            self.cost[start] = min(self._whole(start), self._split(start))

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
