"""Products by oneDNN against the same formulas in fp64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu
from torch.utils.checkpoint import checkpoint

from llmcausal.model import cpu_products
from llmcausal.model.cpu_products import frozen_product, gated_lora_product, lora_product

WIDE, OUT, RANK, SCALE = 48, 32, 4, 0.7


def made(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def leaves(rows: tuple[int, ...]) -> list[Tensor]:
    """gate, up, A and B, which want gradients."""
    shapes = (*rows, WIDE), (*rows, WIDE), (RANK, WIDE), (OUT, RANK)
    return [made(*shape, seed=seed).requires_grad_() for seed, shape in enumerate(shapes)]


def reference(inputs: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    return torch.nn.functional.linear(inputs, weight, bias) + SCALE * (inputs @ a.T) @ b.T


def gradients(output: Tensor, of: list[Tensor]) -> list[Tensor]:
    upstream = made(*output.shape, seed=9).to(output.dtype)
    return list(torch.autograd.grad(output, of, upstream))


def assert_near(found: list[Tensor], wanted: list[Tensor]) -> None:
    for one, other in zip(found, wanted, strict=True):
        scale = other.abs().max().item()
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-6 * scale)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("rows", [(1,), (7,), (1, 33), (2, 5)])
def test_lora_product(rows: tuple[int, ...], with_bias: bool) -> None:
    inputs, _, a, b = leaves(rows)
    weight, bias = made(OUT, WIDE, seed=7), made(OUT, seed=8) if with_bias else None
    output = lora_product(inputs, weight, bias, a, b, SCALE)
    exact = [each.detach().double().requires_grad_() for each in (inputs, a, b)]
    wanted = reference(
        exact[0], weight.double(), bias if bias is None else bias.double(), *exact[1:]
    )
    assert_near([output], [wanted.detach()])
    assert_near(gradients(output, [inputs, a, b]), gradients(wanted, exact))


def test_frozen_product_takes_an_upstream_gradient_of_any_layout() -> None:
    inputs, *_ = leaves((1, 6))
    weight = made(OUT, WIDE, seed=7)
    output = frozen_product(inputs, weight, None)
    upstream = made(1, OUT, 6, seed=5).transpose(1, 2)
    (found,) = torch.autograd.grad(output, inputs, upstream)
    assert_near([found], [upstream.double() @ weight.double()])


@pytest.mark.parametrize("checkpointed", [False, True])
def test_gated_product(checkpointed: bool) -> None:
    gate, up, a, b = leaves((1, 21))
    weight, bias = made(OUT, WIDE, seed=7), made(OUT, seed=8)

    def run(gate: Tensor, up: Tensor) -> Tensor:
        return gated_lora_product(gate * 1.5, up * 0.5, weight, bias, a, b, SCALE)

    output: Any = checkpoint(run, gate, up, use_reentrant=False) if checkpointed else run(gate, up)
    exact = [each.detach().double().requires_grad_() for each in (gate, up, a, b)]
    inputs = silu(exact[0] * 1.5) * (exact[1] * 0.5)
    wanted = reference(inputs, weight.double(), bias.double(), *exact[2:])
    assert_near([output], [wanted.detach()])
    assert_near(gradients(output, [gate, up, a, b]), gradients(wanted, exact))


def test_gated_product_keeps_the_two_that_are_multiplied_and_no_more() -> None:
    gate, up, a, b = leaves((1, 21))
    weight = made(OUT, WIDE, seed=7)
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        gated_lora_product(gate, up, weight, None, a, b, SCALE)
    assert set(kept) == {each.untyped_storage().data_ptr() for each in (gate, up, a, b)}


def test_a_checkpoint_does_not_compute_the_gated_product_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate, up, a, b = leaves((1, 21))
    weight = made(OUT, WIDE, seed=7)
    plain, whole = cpu_products.product, []

    def counted(inputs: Tensor, by: Tensor, bias: Tensor | None = None) -> Tensor:
        whole.append(by is weight)
        return plain(inputs, by, bias)

    monkeypatch.setattr(cpu_products, "product", counted)

    def layer(gate: Tensor, up: Tensor) -> Tensor:
        return gate + up + gated_lora_product(gate, up, weight, None, a, b, SCALE).sum()

    output: Any = checkpoint(layer, gate, up, use_reentrant=False)
    output.sum().backward()
    assert whole.count(True) == 1


def test_gated_product_without_gradients() -> None:
    gate, up, a, b = leaves((3,))
    weight = made(OUT, WIDE, seed=7)
    with torch.no_grad():
        found = gated_lora_product(gate, up, weight, None, a, b, SCALE)
    wanted = reference(silu(gate.double()) * up.double(), weight.double(), None, a.double(),
                       b.double())  # fmt: skip
    assert_near([found], [wanted.detach()])
