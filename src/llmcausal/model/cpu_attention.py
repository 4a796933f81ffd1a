"""Attention over a prefix tree as a few batched products, for a processor with few cores.

In short texts a kernel call for each branch costs more than the branch, and torch's CPU kernel is
slower backward in 16 bits than in 32. Here the nodes are cut in order into chunks of equal length.
Nodes are numbered depth-first, so a chunk sees the path to its first node and itself. Chunks with
about as many keys form a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from llmcausal.data.prefix_tree import Indices

CHUNK = 32
"""Nodes of a chunk."""
SHORT_CHUNK, SHORT_TREE = 16, 512
"""The same for trees of at most so many nodes; padding to 32 would cost up to a tenth of a step."""
LONG_CHUNK, LONG_PATH = 64, 512
"""The same for paths of more nodes, so that their keys are copied less often."""
_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)


@dataclass(frozen=True)
class ChunkBatch:
    """Chunks with about as many keys; padded with repeats of the first."""

    chunks: Tensor  # their numbers [batch]
    keys: Tensor  # the nodes that each sees, padded with node 0 [batch * width]
    width: int  # keys of one chunk
    mask: Tensor  # 0 where a row sees a key, else -inf [batch, rows, 1, width]


@dataclass(frozen=True)
class TreePlan:
    """How attention over one tree is computed, for all layers."""

    rows: int  # nodes of a chunk
    nodes: int  # all nodes, padding included; a multiple of `rows`
    batches: tuple[ChunkBatch, ...]  # hold every chunk once
    places: Tensor  # index of each chunk in the joined batches [chunks]
    # For each node a list of the indices of its key in the joined batches; joined.
    key_places: Tensor
    key_starts: Tensor  # where each node's list starts [nodes]


def padded_length(nodes: int) -> int:
    """Returns the nodes of a tree with its padding: a coarser multiple for a longer tree.

    So few shapes occur. Each new shape costs oneDNN a millisecond, and 0.8 MiB while it is cached.
    """
    step = CHUNK << ((nodes // 512).bit_length() + 1) // 2
    if nodes <= SHORT_TREE:
        step = SHORT_CHUNK
    return -(-nodes // step) * step


def plan_tree(subtree_ends: Tensor, dtype: torch.dtype) -> TreePlan:
    """Plans attention for queries of a dtype; each padding node is a separate tree.

    Args:
        subtree_ends: One past the last descendant of each node [nodes].
    """
    nodes = padded_length(len(subtree_ends))
    ends = np.arange(1, nodes + 1)
    ends[: len(subtree_ends)] = subtree_ends.numpy()
    short = nodes <= SHORT_TREE
    rows = SHORT_CHUNK if short else CHUNK
    seen_by = _seen_by(ends, rows)
    if not short and max(map(len, seen_by)) > LONG_PATH:
        rows, seen_by = LONG_CHUNK, _seen_by(ends, LONG_CHUNK)
    batches: list[ChunkBatch] = []
    places = np.empty(nodes // rows, dtype=np.int64)
    of, where = [], []  # each key of each chunk: its node, and its place in the batches
    chunks_before = keys_before = 0
    for width, chunks in _by_width(seen_by):
        batch = _batch(ends, seen_by, chunks, rows, width, dtype)
        places[chunks] = chunks_before + np.arange(len(chunks))
        for place, chunk in enumerate(chunks):
            own = seen_by[chunk]
            of.append(own)
            where.append(keys_before + place * width + np.arange(len(own)))
        chunks_before += len(batch.chunks)
        keys_before += len(batch.keys)
        batches.append(batch)
    nodes_of, places_of = np.concatenate(of), np.concatenate(where)
    by_node = np.argsort(nodes_of, kind="stable")
    return TreePlan(
        rows,
        nodes,
        tuple(batches),
        torch.from_numpy(places),
        torch.from_numpy(places_of[by_node]),
        torch.from_numpy(np.searchsorted(nodes_of[by_node], np.arange(nodes))),
    )


def _seen_by(ends: Indices, rows: int) -> list[Indices]:
    """Returns the nodes that each chunk sees: the path to its first node, and itself."""
    return [
        np.concatenate([np.flatnonzero(ends[:start] > start), np.arange(start, start + rows)])
        for start in range(0, len(ends), rows)
    ]


def _batch(
    ends: Indices,
    seen_by: list[Indices],
    chunks: list[int],
    rows: int,
    width: int,
    dtype: torch.dtype,
) -> ChunkBatch:
    count = next(each for each in _COUNTS if each >= len(chunks))
    keys = np.zeros((count, width), dtype=np.int64)
    mask = np.full((len(keys), rows, width), -np.inf, dtype=np.float32)
    mask[:, :, 0] = 0  # padding must see something
    for place, chunk in enumerate(chunks):
        own = seen_by[chunk]
        row = np.arange(chunk * rows, (chunk + 1) * rows)[:, None]
        keys[place, : len(own)] = own
        mask[place] = -np.inf
        mask[place, :, : len(own)][(own[None] <= row) & (row < ends[own][None])] = 0
    padded = [*chunks, *[chunks[0]] * (len(keys) - len(chunks))]
    return ChunkBatch(
        torch.tensor(padded),
        torch.from_numpy(keys.reshape(-1)),
        width,
        torch.from_numpy(mask)[:, :, None].to(dtype),
    )


def attend(query: Tensor, key: Tensor, value: Tensor, plan: TreePlan) -> Tensor:
    """Attends along the tree.

    Args:
        query: Scaled [key heads, nodes, queries of a key head, head width].
        key: [key heads, nodes, head width].
        value: As `key`.

    Returns:
        Outputs [nodes, heads * head width].
    """
    heads, nodes, group, width = query.shape
    outputs = []
    for batch, rows in _chunk_rows(query, plan):
        weights = _weights(rows, _keys(key, batch), batch, group)
        found = weights @ _keys(value, batch)
        outputs.append(found.view(heads, -1, plan.rows * group * width))
    chunks = _joined(outputs).index_select(1, plan.places).view(heads, nodes, group * width)
    return chunks.transpose(0, 1).reshape(nodes, heads * group * width)


def attend_backward(
    upstream: Tensor, query: Tensor, key: Tensor, value: Tensor, plan: TreePlan
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of query, key and value, from that of the outputs.

    The weights are computed again.
    """
    heads, nodes, group, width = query.shape
    given = upstream.view(nodes, heads, group, width).transpose(0, 1).contiguous()
    of_query, of_key, of_value = [], [], []
    for (batch, rows), (_, gradient) in zip(
        _chunk_rows(query, plan), _chunk_rows(given, plan), strict=True
    ):
        keys, values = _keys(key, batch), _keys(value, batch)
        weights = _weights(rows, keys, batch, group)
        of_value.append((weights.mT @ gradient).view(heads, -1, width))
        of_weights = gradient @ values.mT
        of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
        of_query.append((of_scores @ keys).view(heads, -1, plan.rows * group * width))
        of_key.append((of_scores.mT @ rows).view(heads, -1, width))
    return (
        _joined(of_query).index_select(1, plan.places).view(query.shape),
        _sum_keys(of_key, plan),
        _sum_keys(of_value, plan),
    )


def attend_rows(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Attends with one token of each row; in 16 bits torch's kernel takes five times as long.

    Args:
        query: Scaled [rows, heads, head width].
        keys: [rows, key heads, columns, head width].
        values: As `keys`.
        mask: Of columns [rows, 1, 1, columns]: True where they are seen, or what scores get added.

    Returns:
        Outputs [rows, heads * head width].
    """
    rows, key_heads, columns, width = keys.shape
    grouped = query.reshape(rows * key_heads, -1, width)
    # Keys first: oneDNN is slow if the first matrix has few rows.
    scores = (keys.flatten(0, 1) @ grouped.mT).mT.reshape(rows, -1, 1, columns)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if mask is not None:
        scores = scores.where(mask, -torch.inf) if mask.dtype == torch.bool else scores.add_(mask)
    weights = torch.softmax(scores, dim=-1).to(values.dtype).view(rows * key_heads, -1, columns)
    return (weights @ values.flatten(0, 1)).view(rows, -1)


def _chunk_rows(states: Tensor, plan: TreePlan) -> Iterator[tuple[ChunkBatch, Tensor]]:
    """Yields each batch with its chunks' rows [key heads * batch, rows * group, width]."""
    heads, _, group, width = states.shape
    chunks = states.view(heads, -1, plan.rows * group * width)
    for batch in plan.batches:
        own = chunks.index_select(1, batch.chunks)
        yield batch, own.view(-1, plan.rows * group, width)


def _keys(states: Tensor, batch: ChunkBatch) -> Tensor:
    """Returns the keys of each chunk [key heads * batch, keys, width]."""
    return states.index_select(1, batch.keys).view(-1, batch.width, states.shape[-1])


def _weights(rows: Tensor, keys: Tensor, batch: ChunkBatch, group: int) -> Tensor:
    """Returns softmax weights [key heads * batch, rows * group, keys]."""
    scores = rows @ keys.mT
    by_chunk = scores.view(-1, len(batch.chunks), scores.shape[1] // group, group, batch.width)
    by_chunk += batch.mask
    return torch.softmax(scores, dim=-1)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)  # cat would copy the one part


def _sum_keys(gradients: list[Tensor], plan: TreePlan) -> Tensor:
    """Adds up each node's gradients [key heads, nodes, width], in a fixed order."""
    joined = _joined(gradients)
    return torch.stack([
        embedding_bag(plan.key_places, each, plan.key_starts, mode="sum") for each in joined
    ])  # fmt: skip


def _by_width(seen_by: list[Indices]) -> Iterator[tuple[int, list[int]]]:
    """Yields the chunks by their padded number of keys."""
    groups: dict[int, list[int]] = {}
    for chunk, seen in enumerate(seen_by):
        groups.setdefault(_rounded(len(seen)), []).append(chunk)
    for width in sorted(groups):
        chunks = groups[width]
        for start in range(0, len(chunks), _COUNTS[-1]):
            yield width, chunks[start : start + _COUNTS[-1]]


def _rounded(keys: int) -> int:
    """Rounds up to a multiple of 64, coarser the more there are: few widths in all."""
    step = 64 << max(0, (keys // 256).bit_length() - 1)
    return -(-keys // step) * step
