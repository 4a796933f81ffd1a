"""Attention over a tree: exact against one mask over all nodes, and what it keeps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.backends import cuda
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from llmcausal.data.prefix_tree import AttentionBlock, PrefixTree, attention_blocks, pack
from llmcausal.model.tree_attention import TreeBlocks, tree_attention_forward

attend: Any = tree_attention_forward
HEADS, KEY_HEADS, WIDTH = 4, 2, 8
SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=8)


def lower_right(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    rows, keys = q.shape[2], k.shape[2]
    seen = torch.ones(rows, keys, dtype=torch.bool).tril(keys - rows)
    return scaled_dot_product_attention(q, k, v, seen, scale=scale, enable_gqa=True)


def flash(
    q: Tensor, k: Tensor, v: Tensor, dropout: float, causal: bool, *, scale: float | None
) -> tuple[Tensor, ...]:
    """Stands for `aten::_scaled_dot_product_flash_attention`, whose causality is lower right."""
    assert causal
    assert k.shape[1] == KEY_HEADS, "grouped heads are not copied"
    return (lower_right(q, k, v, scale),)


def efficient(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *options: Any,
    scale: float | None,
) -> tuple[Tensor, ...]:
    """Stands for `aten::_efficient_attention_forward`: [batch, nodes, heads, head width]."""
    *nothing, _dropout, mask_kind, keeps_sums = options
    assert nothing == [None] * 5
    assert mask_kind == 2  # CustomMaskType::CausalFromBottomRight
    assert keeps_sums == q.requires_grad
    assert k.shape[2] == HEADS, "the kernel has no grouped heads"
    q, k, v = (each.transpose(1, 2) for each in (q, k, v))
    return (lower_right(q, k, v, scale).transpose(1, 2),)


@contextmanager
def kernel(name: str) -> Iterator[None]:
    """Lets attention take a kernel of CUDA for one that runs here; `mask` is that of the CPU."""
    kernels = {
        "flash": ("can_use_flash_attention", "_scaled_dot_product_flash_attention", flash),
        "efficient": ("can_use_efficient_attention", "_efficient_attention_forward", efficient),
    }
    with ExitStack() as stack:
        if name != "mask":
            question, operation, stand_in = kernels[name]
            stack.enter_context(patch.object(cuda, question, lambda _: True))
            stack.enter_context(patch.object(torch.ops.aten, operation, stand_in))
        yield


def states(nodes: int, heads: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(1, nodes, heads, WIDTH, dtype=torch.float64, generator=generator)
    return drawn.transpose(1, 2).requires_grad_()


def inputs(nodes: int) -> list[Tensor]:
    return [states(nodes, heads, seed) for seed, heads in enumerate((HEADS, KEY_HEADS, KEY_HEADS))]


def over_tree(tree: PrefixTree, *given: Tensor) -> Tensor:
    ends = tree.subtree_ends
    blocks = TreeBlocks(attention_blocks(ends), torch.from_numpy(ends))
    output: Tensor = attend(torch.nn.Module(), *given, None, tree_blocks=blocks)[0]
    return output


def over_mask(tree: PrefixTree, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    index, ends = torch.arange(len(tree)), torch.from_numpy(tree.subtree_ends)
    seen = (index[None] <= index[:, None]) & (index[:, None] < ends[None])
    return scaled_dot_product_attention(q, k, v, seen, enable_gqa=True).transpose(1, 2)


def results(output: Tensor, given: list[Tensor]) -> list[Tensor]:
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return [output.detach(), *torch.autograd.grad((output * weights).sum(), given)]


@pytest.mark.parametrize("name", ["mask", "flash", "efficient"])
@settings(deadline=None)
@given(SEQUENCES)
def test_blocks_are_exact(name: str, sequences: list[list[int]]) -> None:
    tree = pack(sequences)
    given = inputs(len(tree))
    with kernel(name):
        found = results(over_tree(tree, *given), given)
        again = results(
            checkpoint(over_tree, tree, *given, use_reentrant=False), given
        )  # as layers are recomputed
    for one, other, wanted in zip(
        found, again, results(over_mask(tree, *given), given), strict=True
    ):
        torch.testing.assert_close(one, wanted, rtol=1e-11, atol=1e-12)
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["mask", "flash", "efficient"])
def test_a_sequence_is_a_tree_of_one_branch(name: str) -> None:
    given = inputs(9)
    with kernel(name):
        output = attend(torch.nn.Module(), *given, None)[0]
    tree = pack([list(range(9))])
    for found, wanted in zip(
        results(output, given), results(over_mask(tree, *given), given), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("blocks", "copied", "masked"),
    [
        ([((0, 12), ((0, 12),))], 0, 0),
        ([((0, 4), ((0, 4),)), ((4, 8), ((4, 8),)), ((8, 12), ((8, 12),))], 0, 0),
        ([((0, 4), ((0, 4),)), ((4, 8), ((0, 8),)), ((8, 12), ((0, 4), (8, 12)))], 8, 2 * 4 * 8),
    ],
    ids=["one member", "nothing shared", "a shared prefix"],
)
def test_only_keys_before_a_later_branch_are_copied(
    blocks: list[Any], copied: int, masked: int
) -> None:
    given = [each.detach().float().requires_grad_() for each in inputs(12)]
    own = {each.untyped_storage().data_ptr() for each in given}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    cut = TreeBlocks([AttentionBlock(*each) for each in blocks], torch.empty(0))
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        attend(torch.nn.Module(), *given, None, tree_blocks=cut)
    found = sum(size for storage, size in kept.items() if storage not in own)
    outputs, sums = 4 * HEADS * 12 * WIDTH, 4 * HEADS * 12
    keys_and_values = 2 * 4 * KEY_HEADS * copied * WIDTH
    assert found == outputs + sums + keys_and_values + 4 * masked


def test_capped_scores_are_still_refused() -> None:
    with pytest.raises(ValueError, match="softcap"):
        attend(torch.nn.Module(), *inputs(3), None, softcap=50.0)
