"""MLPs in chunks: the same numbers, one chunk's intermediates, and no needless recomputation."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM

from llmcausal.config import LoraSection
from llmcausal.errors import ConfigError
from llmcausal.model.activations import set_activations
from llmcausal.model.lora import add_lora
from llmcausal.model.token_chunks import chunk_tokens

WIDE = 272
KINDS = {
    "llama": {},
    "mistral": {},
    "qwen2": {},
    "gemma2": {"head_dim": 4},
    "gemma3_text": {"head_dim": 4},
}


def make_model(
    kind: str = "llama", *, dropout: float = 0.0, checkpoints: bool = True, **changes: Any
) -> Any:
    config = AutoConfig.for_model(
        kind,
        **{
            "hidden_size": 16,
            "intermediate_size": WIDE,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 50,
            **KINDS.get(kind, {}),
            **changes,
        },
    )
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config, dtype=torch.float64)
    names = ("q_proj", "gate_proj", "up_proj", "down_proj")
    section = LoraSection(rank=2, dropout=dropout, target_modules=names)
    set_activations(base, "recompute" if checkpoints else "keep", torch.device("cpu"))
    model = add_lora(base.requires_grad_(False), section, 0)
    for name, parameter in model.to(torch.float64).named_parameters():
        if "lora_B" in name:  # starts at zero, where half the gradients vanish
            nn.init.normal_(parameter, std=0.1)
    return model.train()


def run(model: Any, length: int, batch: int = 1) -> dict[str, torch.Tensor]:
    """Loss and gradients of one forward and backward pass."""
    model.zero_grad()
    tokens = torch.randint(50, (batch, length), generator=torch.Generator().manual_seed(1))
    loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
    loss.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **gradients}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # fp64's norms inside transformers compute in fp32.
        assert (found[name] - value).norm() <= 1e-7 * value.norm(), name


@pytest.mark.parametrize("checkpoints", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_those_of_the_plain_mlp(kind: str, checkpoints: bool) -> None:
    model = make_model(kind, checkpoints=checkpoints)
    expected = run(model, 23, batch=2)
    assert len(expected) == 1 + 2 * 4 * 2
    assert chunk_tokens(model, 7) == 2
    assert_same(run(model, 23, batch=2), expected)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(2, 20), tokens=st.integers(1, 24))
def test_any_length_and_chunk(shared_model: Any, length: int, tokens: int) -> None:
    chunk_tokens(shared_model, 0)
    expected = run(shared_model, length)
    chunk_tokens(shared_model, tokens)
    assert_same(run(shared_model, length), expected)


@pytest.fixture(scope="module")
def shared_model() -> Any:
    return make_model()


def test_dropout_masks_are_repeated_when_a_chunk_is_recomputed() -> None:
    """The same draws as in a pass that keeps everything; the caller's random numbers go on."""
    model = make_model(dropout=0.3)
    for mlp in (m for n, m in model.named_modules() if n.endswith(".mlp")):
        plain = mlp.forward

        def in_parts(hidden: torch.Tensor, plain: Any = plain) -> torch.Tensor:
            return torch.cat([plain(part) for part in hidden.tensor_split(3, dim=1)], dim=1)

        mlp.forward = in_parts
    torch.manual_seed(5)
    expected = run(model, 20)
    after = torch.rand(3)
    model = make_model(dropout=0.3)
    chunk_tokens(model, 7)
    torch.manual_seed(5)
    assert_same(run(model, 20), expected)
    assert torch.equal(torch.rand(3), after)


def test_autocast_is_the_same_in_the_recomputation() -> None:
    model = make_model(checkpoints=False).float()

    def gradients() -> dict[str, torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            return run(model, 20)

    expected = gradients()
    seen = []
    gate = model.get_base_model().model.layers[0].mlp.gate_proj
    gate.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    chunk_tokens(model, 7)
    found = gradients()
    assert seen == [torch.bfloat16] * 6  # three chunks, twice
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] - value).norm() <= 0.03 * value.norm(), name


@contextmanager
def most_tokens_alive(model: Any) -> Iterator[list[int]]:
    """Counts tokens of MLP width alive at one time, as storages other than the weights' come."""
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    peak = [0]
    alive: dict[int, int] = {}

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            output = func(*args, **(kwargs or {}))
            for tensor in tree_leaves(output):
                if torch.is_tensor(tensor) and tensor.ndim == 3 and tensor.shape[-1] == WIDE:
                    storage = tensor.untyped_storage()
                    if storage._cdata not in weights | alive.keys():
                        alive[storage._cdata] = tensor.shape[1]
                        weakref.finalize(storage, alive.pop, storage._cdata)
            peak[0] = max(peak[0], sum(alive.values()))
            return output

    with Watch():  # type: ignore[no-untyped-call]
        yield peak


@pytest.mark.parametrize("checkpoints", [True, False])
def test_only_one_chunks_intermediates_exist_at_a_time(checkpoints: bool) -> None:
    """As many as checkpoints leave of a whole pass of one chunk's length."""
    model = make_model(checkpoints=True)
    with most_tokens_alive(model) as one_pass:
        run(model, 15)
    model = make_model(checkpoints=checkpoints)
    chunk_tokens(model, 15)
    with most_tokens_alive(model) as chunked:
        run(model, 120)
    assert 0 < chunked[0] <= one_pass[0]
    chunk_tokens(model, 0)
    with most_tokens_alive(model) as plain:
        run(model, 120)
    assert plain[0] >= 8 * chunked[0]


def test_layer_checkpoints_do_not_run_the_mlp_a_third_time() -> None:
    model = make_model()
    calls = []
    mlp = model.get_base_model().model.layers[0].mlp
    mlp.gate_proj.register_forward_hook(lambda _module, inputs, _: calls.append(len(inputs[0][0])))
    chunk_tokens(model, 8)
    run(model, 24)
    assert calls == [8] * 6


def test_without_gradients_chunks_are_plain_and_short_inputs_whole() -> None:
    model = make_model(checkpoints=False).eval()
    calls = []
    mlp = model.get_base_model().model.layers[0].mlp
    mlp.gate_proj.register_forward_hook(lambda _module, inputs, _: calls.append(len(inputs[0][0])))
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        expected = model(tokens).logits
        chunk_tokens(model, 7)
        torch.testing.assert_close(model(tokens).logits, expected)
        model(tokens[:, :7])
    assert calls == [20, 7, 7, 6, 7]


def test_repeating_changes_the_length_and_zero_restores() -> None:
    model = make_model()
    mlp = model.get_base_model().model.layers[0].mlp
    assert chunk_tokens(model, 8) == chunk_tokens(model, 4) == 2
    assert mlp.forward.tokens == 4
    assert mlp.forward.plain == type(mlp).forward.__get__(mlp)
    assert chunk_tokens(model, 0) == 0
    assert mlp.forward == type(mlp).forward.__get__(mlp)


def test_a_mixture_of_experts_is_refused() -> None:
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1}
    config = AutoConfig.for_model(
        "mixtral",
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=50,
        **experts,
    )
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ConfigError, match=r"layers\.0\.mlp .* mixture of experts"):
        chunk_tokens(model, 8)
    assert chunk_tokens(model, 0) == 0


class BatchedProducts(TorchDispatchMode):
    """Records the shapes that enter batched products."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[torch.Size] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.bmm.default:
            self.shapes += [each.shape for each in args]
        return func(*args, **(kwargs or {}))


def test_no_chunk_enters_a_batched_product() -> None:
    """It would copy the whole weight on a CPU, once for each product of each chunk."""
    model = make_model()
    chunk_tokens(model, 7)
    with BatchedProducts() as products:
        run(model, 20)
    assert [shape for shape in products.shapes if WIDE in shape] == []
