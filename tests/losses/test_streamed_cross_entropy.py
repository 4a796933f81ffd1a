"""The streamed cross-entropy against torch's on full logits, and against the chunked one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, linear
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from llmcausal.losses.cross_entropy import (
    OutputHead,
    chunked_cross_entropy,
    streamed_cross_entropy,
)

Case = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def draw(
    rows: int, words: int, width: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Case:
    """Hidden states, head, targets, and weights of the rows' losses."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, width, generator=generator, dtype=torch.float64).to(dtype)
    head = torch.randn(words, width, generator=generator, dtype=torch.float64).to(dtype)
    targets = torch.randint(0, words, (rows,), generator=generator)
    weights = torch.randn(rows, generator=generator, dtype=torch.float64)
    return hidden.requires_grad_(), head, targets, weights


def naive(
    hidden: torch.Tensor,
    head: torch.Tensor,
    targets: torch.Tensor,
    bias: torch.Tensor | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    z = linear(hidden, head, bias)
    z = z if softcap is None else softcap * torch.tanh(z / softcap)
    return cross_entropy(z, targets, reduction="none")


@given(
    rows=st.integers(0, 9),
    words=st.integers(1, 40),
    vocabulary_chunk=st.integers(1, 45),
    label_chunk=st.integers(1, 12),
    biased=st.booleans(),
    softcap=st.sampled_from([None, 3.0]),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
    seed=st.integers(0, 1000),
)
def test_streamed_losses_and_gradients(
    rows: int,
    words: int,
    vocabulary_chunk: int,
    label_chunk: int,
    biased: bool,
    softcap: float | None,
    scale: float,
    seed: int,
) -> None:
    hidden, head, targets, weights = draw(rows, words, 5, seed)
    head = head * scale
    bias = torch.randn(words, dtype=torch.float64) if biased else None
    expected = naive(hidden, head, targets, bias, softcap)
    (expected_gradient,) = torch.autograd.grad((expected * weights).sum(), hidden)
    found = streamed_cross_entropy(
        hidden,
        OutputHead(head, bias, softcap),
        targets,
        vocabulary_chunk=vocabulary_chunk,
        label_chunk=label_chunk,
    )
    (gradient,) = torch.autograd.grad((found * weights).sum(), hidden)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-11)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("softcap", [None, 30.0])
def test_fp32_is_as_close_to_the_truth_as_the_chunked_path(softcap: float | None) -> None:
    hidden, head, targets, weights = draw(48, 3000, 64)
    truth = naive(hidden, head, targets, softcap=softcap)
    (truth_gradient,) = torch.autograd.grad((truth * weights).sum(), hidden)
    single = hidden.detach().float().requires_grad_()
    found = streamed_cross_entropy(
        single,
        OutputHead(head.float(), softcap=softcap),
        targets,
        vocabulary_chunk=512,
        label_chunk=20,
    )
    (gradient,) = torch.autograd.grad((found * weights).sum(), single)
    assert relative_error(found, truth) < 1e-5
    assert relative_error(gradient, truth_gradient) < 1e-5


def test_a_bf16_head_is_summed_in_fp32() -> None:
    """At most as far from the same bf16 numbers' true gradient as the chunked path."""
    hidden, head, targets, _ = draw(64, 6000, 64, dtype=torch.bfloat16)
    hidden = (hidden / 4).detach().requires_grad_()
    exact = hidden.detach().double().requires_grad_()
    truth = naive(exact, head.double(), targets)
    (truth_gradient,) = torch.autograd.grad(truth.sum(), exact)
    chunked = chunked_cross_entropy(hidden, OutputHead(head), targets)
    (chunked_gradient,) = torch.autograd.grad(chunked.sum(), hidden)
    streamed = streamed_cross_entropy(hidden, OutputHead(head), targets, vocabulary_chunk=100)
    (gradient,) = torch.autograd.grad(streamed.sum(), hidden)
    assert streamed.dtype == torch.float32
    torch.testing.assert_close(streamed, chunked, rtol=1e-5, atol=1e-5)
    allowed = 1.2 * relative_error(chunked_gradient, truth_gradient)
    assert relative_error(gradient, truth_gradient) < allowed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_confident_row_keeps_the_digits_of_its_gradient(dtype: torch.dtype) -> None:
    """With p near 1, (p - 1) W must not be the difference of two rounded sums."""
    # Small numbers, whole or half: no logit is rounded in either dtype.
    generator = torch.Generator().manual_seed(0)
    head = torch.randint(-2, 3, (50, 16), generator=generator).to(dtype)
    hidden = (head[[7]] / 2).requires_grad_()
    exact = hidden.detach().double().requires_grad_()
    loss = naive(exact, head.double(), torch.tensor([7]))
    assert loss.item() < 1e-2
    (truth,) = torch.autograd.grad(loss.sum(), exact)
    found = streamed_cross_entropy(hidden, OutputHead(head), torch.tensor([7]), vocabulary_chunk=4)
    (gradient,) = torch.autograd.grad(found.sum(), hidden)
    assert relative_error(gradient, truth) < (1e-5 if dtype == torch.float32 else 0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("magnitude", [1e4, 1e30])
@pytest.mark.parametrize("target", range(6))
def test_extreme_logits_give_numbers(dtype: torch.dtype, magnitude: float, target: int) -> None:
    head = torch.eye(6, dtype=dtype)
    hidden = magnitude * torch.tensor([[-1.0, 0, 0.5, 1, -0.5, 0.25]], dtype=dtype)
    hidden.requires_grad_()
    expected = naive(hidden, head, torch.tensor([target]))
    (expected_gradient,) = torch.autograd.grad(expected.sum(), hidden)
    found = streamed_cross_entropy(
        hidden, OutputHead(head), torch.tensor([target]), vocabulary_chunk=1
    )
    (gradient,) = torch.autograd.grad(found.sum(), hidden)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, expected_gradient)


def test_words_that_a_bias_rules_out_have_no_part() -> None:
    hidden, head, _, _ = draw(3, 12, 4)
    bias = torch.zeros(12, dtype=torch.float64)
    bias[:8] = float("-inf")
    targets = torch.tensor([8, 9, 11])
    found = streamed_cross_entropy(hidden, OutputHead(head, bias), targets, vocabulary_chunk=4)
    (gradient,) = torch.autograd.grad(found.sum(), hidden)
    expected = naive(hidden, head[8:], targets - 8)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), hidden)[0])


class Made(TorchDispatchMode):
    """Counts new storages, matrix products, and reads of the head."""

    def __init__(self, head: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.head = head.untyped_storage().data_ptr()
        self.largest_bytes = 0
        self.read: list[int] = []
        self.products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in tree_leaves(args) if torch.is_tensor(t)}
        if func in (torch.ops.aten.mm.default, torch.ops.mkldnn._linear_pointwise.default):
            self.products += 1
        if func is torch.ops.aten.split.Tensor and self.head in given:
            self.read += [len(part) for part in output]
        for made in tree_leaves(output):
            if torch.is_tensor(made) and made.untyped_storage().data_ptr() not in given:
                self.largest_bytes = max(self.largest_bytes, made.untyped_storage().nbytes())
        return output


def test_neither_all_logits_nor_the_head_is_ever_made() -> None:
    rows, words, width = 40, 1000, 16
    hidden, head, targets, _ = draw(rows, words, width, dtype=torch.float32)
    bias = torch.zeros(words)
    with Made(head) as made:
        losses = streamed_cross_entropy(
            hidden, OutputHead(head, bias), targets, vocabulary_chunk=96, label_chunk=8
        )
        losses.sum().backward()
    tile, sums = 8 * 96 * 4, rows * width * 4
    assert made.largest_bytes == max(tile, sums)
    with Made(head) as made:
        naive(hidden, head, targets).sum().backward()
    assert made.largest_bytes >= rows * words * 4  # the meter sees what it should


def test_the_head_is_read_once_for_all_rows() -> None:
    hidden, head, targets, _ = draw(40, 1000, 16, dtype=torch.float32)
    with Made(head) as made:
        streamed_cross_entropy(
            hidden, OutputHead(head), targets, vocabulary_chunk=300, label_chunk=8
        )
    assert made.read == [300, 300, 300, 100]
    assert made.products == 4 * 5 * 2  # chunks of the head, of the rows; logits and gradient


@pytest.mark.parametrize("recorded", [True, False])
def test_no_gradient_is_summed_when_none_is_wanted(recorded: bool) -> None:
    hidden, head, targets, _ = draw(5, 30, 4, dtype=torch.float32)
    with Made(head) as made, torch.set_grad_enabled(recorded):
        hidden = hidden.detach() if recorded else hidden
        losses = streamed_cross_entropy(hidden, OutputHead(head), targets, vocabulary_chunk=10)
    assert made.products == 3
    assert losses.grad_fn is None


def test_without_rows_the_head_stays_where_it_is() -> None:
    hidden, head, targets, _ = draw(0, 30, 4, dtype=torch.float32)
    with Made(head) as made:
        losses = streamed_cross_entropy(hidden, OutputHead(head), targets, vocabulary_chunk=10)
        losses.sum().backward()
    assert losses.shape == (0,)
    assert made.read == []
    assert hidden.grad is not None


@pytest.mark.gpu
@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize("words", [1000, 64, 4096])
def test_buffers_on_cuda_are_not_overwritten_too_early(pinned: bool, words: int) -> None:
    hidden, head, targets, _ = draw(300, words, 2048, dtype=torch.float32)
    expected = chunked_cross_entropy(hidden, OutputHead(head), targets)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), hidden)
    head = head.pin_memory() if pinned else head
    remote = hidden.detach().cuda().requires_grad_()
    for _ in range(5):
        found = streamed_cross_entropy(
            remote, OutputHead(head), targets.cuda(), vocabulary_chunk=96, label_chunk=128
        )
        (gradient,) = torch.autograd.grad(found.sum(), remote)
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(gradient.cpu(), expected_gradient, rtol=1e-3, atol=1e-3)
