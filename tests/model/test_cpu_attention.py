"""Attention in chunks of a tree's nodes, against one masked softmax over all pairs in fp64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmcausal.data.prefix_tree import pack
from llmcausal.model import cpu_attention
from llmcausal.model.cpu_attention import (
    attend,
    attend_backward,
    attend_rows,
    padded_length,
    plan_tree,
)

KEY_HEADS, GROUP, WIDTH = 2, 3, 4
SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=40), min_size=1, max_size=8)


def reference(ends: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor):
    """Every pair of nodes at once; a padding node sees itself alone."""
    nodes = query.shape[1]
    all_ends = torch.arange(1, nodes + 1)
    all_ends[: len(ends)] = ends
    index = torch.arange(nodes)
    visible = (index[None] <= index[:, None]) & (index[:, None] < all_ends[None])
    scores = torch.einsum("gnrd,gmd->gnrm", query, key).masked_fill(
        ~visible[None, :, None], float("-inf")
    )
    outputs = torch.einsum("gnrm,gmd->gnrd", scores.softmax(-1), value)
    return outputs.transpose(0, 1).reshape(nodes, -1)


def check(sequences: list[list[int]]) -> None:
    tree = pack(sequences)
    ends = torch.tensor(tree.subtree_ends)
    plan = plan_tree(ends, torch.float64)
    assert plan.nodes == padded_length(len(tree)) >= len(tree)
    random = torch.Generator().manual_seed(len(tree))

    def made(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64).requires_grad_()

    query = made(KEY_HEADS, plan.nodes, GROUP, WIDTH)
    key, value = made(KEY_HEADS, plan.nodes, WIDTH), made(KEY_HEADS, plan.nodes, WIDTH)
    wanted = reference(ends, query, key, value)
    upstream = torch.randn(wanted.shape, generator=random, dtype=torch.float64)
    states = [each.detach() for each in (query, key, value)]
    torch.testing.assert_close(attend(*states, plan), wanted.detach(), rtol=1e-12, atol=1e-13)
    found = attend_backward(upstream, *states, plan)
    for own, other in zip(
        found, torch.autograd.grad(wanted, (query, key, value), upstream), strict=True
    ):
        torch.testing.assert_close(own, other, rtol=1e-11, atol=1e-12)


@given(SEQUENCES)
def test_the_same_as_all_pairs_at_once(sequences: list[list[int]]) -> None:
    check(sequences)


def test_long_paths_take_longer_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_attention, "LONG_PATH", 64)
    trunk = list(range(100))
    sequences = [[*trunk, 200 + branch, *range(120)] for branch in range(4)]
    plan = plan_tree(torch.tensor(pack(sequences).subtree_ends), torch.float64)
    assert plan.rows == cpu_attention.LONG_CHUNK
    check(sequences)


def test_every_chunk_is_in_one_batch_and_few_shapes_occur() -> None:
    shapes = set()
    for length in range(1, 1500, 7):
        plan = plan_tree(torch.full((length,), length), torch.float32)
        chunks = [c for b in plan.batches for c in dict.fromkeys(b.chunks.tolist())]
        assert sorted(chunks) == list(range(plan.nodes // plan.rows))
        assert plan.nodes - length < max(16, length / 8)
        shapes |= {(len(batch.chunks), batch.width) for batch in plan.batches}
    assert len(shapes) < 60


def test_a_chunk_sees_its_path_and_nothing_of_other_branches() -> None:
    tree = pack([[0, *[1] * 60], [0, *[2] * 60]])  # one node shared, then two branches
    plan = plan_tree(torch.tensor(tree.subtree_ends), torch.float32)
    (last,) = [
        c for c, place in enumerate(plan.places.tolist()) if c == (len(tree) - 1) // plan.rows
    ]
    for batch in plan.batches:
        for place, chunk in enumerate(dict.fromkeys(batch.chunks.tolist())):
            keys = batch.keys.view(-1, batch.width)[place]
            if chunk == last:
                seen = keys[(batch.mask[place, 0, 0] == 0)]
                assert not set(seen.tolist()) & set(range(1, 61)), "the first branch is not seen"


@pytest.mark.parametrize("mask", ["none", "seen", "added"])
def test_rows_attend_as_torch_attends(mask: str) -> None:
    random = torch.Generator().manual_seed(3)

    def made(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    query, buffers = made(5, KEY_HEADS * GROUP, WIDTH), made(2, 6, KEY_HEADS, 9, WIDTH)
    keys, values = buffers[:, :5, :, :7]  # as a cache with room for more rows and columns
    seen = torch.rand(5, 1, 1, 7, generator=random) < 0.6
    seen[..., 0] = True
    masks = {"none": None, "seen": seen, "added": torch.zeros(seen.shape).where(seen, -torch.inf)}
    given = masks[mask]
    wanted = torch.nn.functional.scaled_dot_product_attention(
        query[:, :, None],
        keys,
        values,
        None if given is None else seen,
        scale=1.0,
        enable_gqa=True,
    )
    found = attend_rows(query, keys, values, given)
    torch.testing.assert_close(found, wanted.flatten(1), rtol=1e-12, atol=1e-13)
