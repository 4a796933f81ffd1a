"""The chunked cross-entropy against torch's on full logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from llmcausal.losses.cross_entropy import (
    OutputHead,
    chunked_cross_entropy,
    streamed_cross_entropy,
)


@given(
    rows=st.integers(0, 9),
    chunk=st.integers(1, 12),
    biased=st.booleans(),
    softcap=st.sampled_from([None, 3.0]),
    seed=st.integers(0, 1000),
)
def test_losses_and_gradients(
    rows: int, chunk: int, biased: bool, softcap: float | None, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    hidden, head, weights = draw(rows, 5).requires_grad_(), draw(11, 5), draw(rows)
    bias = draw(11) if biased else None
    targets = torch.randint(0, 11, (rows,), generator=generator)
    z = torch.nn.functional.linear(hidden, head, bias)
    z = z if softcap is None else softcap * torch.tanh(z / softcap)
    expected = cross_entropy(z, targets, reduction="none")
    (expected_gradient,) = torch.autograd.grad((expected * weights).sum(), hidden)
    found = chunked_cross_entropy(hidden, OutputHead(head, bias, softcap), targets, chunk=chunk)
    (gradient,) = torch.autograd.grad((found * weights).sum(), hidden)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_are_summed_in_fp32(dtype: torch.dtype) -> None:
    hidden, head = torch.randn(3, 4, dtype=dtype), torch.randn(7, 4, dtype=dtype)
    losses = chunked_cross_entropy(hidden, OutputHead(head), torch.tensor([0, 3, 6]))
    assert losses.dtype == torch.float32


def test_no_gradient_is_computed_when_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, head = torch.randn(3, 4), torch.randn(7, 4)
    with torch.no_grad():
        losses = chunked_cross_entropy(hidden, OutputHead(head), torch.tensor([0, 3, 6]))
    assert losses.grad_fn is None


@pytest.mark.parametrize("entropy", [chunked_cross_entropy, streamed_cross_entropy])
def test_a_second_derivative_is_refused_and_never_wrong(entropy: Any) -> None:
    hidden, head = torch.randn(3, 4, requires_grad=True), torch.randn(7, 4)
    losses = entropy(hidden, OutputHead(head), torch.tensor([0, 3, 6]))
    (gradient,) = torch.autograd.grad(losses.square().sum(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
