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
    """A packed set of sequences."""

    tokens: Indices  # token id of each node [nodes]
    depths: Indices  # position of each node in its sequences [nodes]
    subtree_ends: Indices  # one past the last descendant of each node [nodes]
    paths: tuple[Indices, ...]  # for each sequence, the node of each of its tokens

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
    """Nodes without a branch between them, at the depths [start, end)."""

    tokens: tuple[int, ...]  # a sequence through the run
    start: int
    end: int
    parent: _Run | None
    children: dict[int, _Run] = field(default_factory=dict)
    first: int = 0  # number of the first node
    subtree_end: int = 0  # one past the number of the last descendant


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
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def batches_alike(rows: Iterable[tuple[int, ...]], size: int) -> list[list[tuple[int, ...]]]:
    """Cuts distinct sequences into batches; those with a common beginning come together."""
    order = sorted(rows)
    return [order[start : start + size] for start in range(0, len(order), size)]


Run = tuple[int, int]


@dataclass(frozen=True)
class AttentionBlock:
    """Nodes in a row without a branch between them.

    Every row sees the ancestors, then the rows up to itself: causal attention, with the last row
    aligned at the last key.
    """

    rows: Run  # the nodes [start, end)
    keys: tuple[Run, ...]  # that the last row sees, in order; the last run ends with the rows


def attention_blocks(subtree_ends: Indices) -> tuple[AttentionBlock, ...]:
    """Cuts a tree [nodes] where it branches; the blocks cover every node once, in order."""
    # A node continues the one before it if both have the same last descendant.
    starts = (np.flatnonzero(np.diff(subtree_ends)) + 1).tolist()
    blocks = []
    path: list[Run] = []  # blocks from a root down to the current one
    for start, end in pairwise([0, *starts, len(subtree_ends)]):
        while path and subtree_ends[path[-1][0]] <= start:
            path.pop()
        path.append((start, end))
        keys: list[Run] = []
        for run in path:
            joins = bool(keys) and keys[-1][1] == run[0]
            keys.append((keys.pop()[0], run[1]) if joins else run)
        blocks.append(AttentionBlock((start, end), tuple(keys)))
    return tuple(blocks)
