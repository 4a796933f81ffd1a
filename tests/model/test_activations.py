"""What of a forward pass is kept: nothing but layer inputs, and those where the switch says."""

from __future__ import annotations

import gc
import weakref
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, CohereConfig, FalconConfig, GPTNeoXConfig

from llmcausal.errors import ConfigError
from llmcausal.model.activations import Copier, HostInputs, set_activations

CPU = torch.device("cpu")


class CountingCopier(Copier):
    """Counts copies, and refuses what is used before it has arrived."""

    def __init__(self) -> None:
        super().__init__(CPU)
        self.shapes: list[torch.Size] = []
        self.back = 0
        self.on_the_way: list[Tensor] = []
        self.left: list[Any] = []
        self.still_there: list[int] = []
        self.waited_for = 0

    def to_host(self, tensor: Tensor) -> Tensor:
        assert not self.on_the_way
        self.shapes.append(tensor.shape)
        self.still_there.append(sum(storage() is not None for storage in self.left))
        self.left.append(weakref.ref(tensor.untyped_storage()))
        return super().to_host(tensor)

    def to_device(self, host: Tensor) -> Tensor:
        assert not self.on_the_way
        self.back += 1
        arriving = torch.full_like(host, float("nan"))
        self.on_the_way.append(arriving)
        self.sources = host
        return arriving

    def wait(self) -> None:
        for arriving in self.on_the_way:
            arriving.copy_(self.sources)
        self.on_the_way.clear()
        self.waited_for = len(self.shapes)


def offload_through_counter(model: Any) -> CountingCopier:
    copier = CountingCopier()
    set_activations(model, "offload", CPU)
    inputs = HostInputs(copier)
    for module in model.modules():
        if hasattr(module, "_gradient_checkpointing_func"):
            module._gradient_checkpointing_func = inputs.checkpoint
    return copier


def gradients(model: Any, ids: Tensor) -> Tensor:
    model.zero_grad()
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.fixture
def model(tiny_llama: Any) -> Any:
    model = tiny_llama(num_hidden_layers=4).train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("proj" in name)
    return model


def test_only_layer_inputs_leave_and_each_comes_back_once(model: Any) -> None:
    ids = torch.arange(11)[None]
    wanted = gradients(model, ids)
    copier = offload_through_counter(model)
    for done in (1, 2):
        assert torch.equal(gradients(model, ids), wanted)
        assert copier.shapes == [torch.Size([1, 11, 32])] * 4 * done
        assert copier.back == 4 * done
        # The model itself holds the first, the embeddings, to the end.
        assert copier.still_there == [0, 1, 1, 1] * done


def on_their_way(model: Any, *outputs: str) -> list[list[int]]:
    """Counts inputs on their way back as these outputs get their gradients, last layer first."""
    ids = torch.arange(11)[None]
    wanted = gradients(model, ids)
    copier = offload_through_counter(model)
    counts: dict[str, list[int]] = {name: [] for name in outputs}

    def watch(name: str, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        states.register_hook(lambda _: counts[name].append(len(copier.on_the_way)))

    for name, module in model.named_modules():
        for each in counts:
            if name.endswith(each):
                module.register_forward_hook(lambda *args, each=each: watch(each, args[-1]))
    assert torch.equal(gradients(model, ids), wanted)
    assert copier.back == 4
    return list(counts.values())


def test_an_input_comes_back_after_the_mlp_of_the_layer_above(model: Any) -> None:
    """The device holds it during attention's backward pass, not where MLPs need the most."""
    assert on_their_way(model, "gate_proj", "self_attn") == [[0] * 4, [1, 1, 1, 0]]


@pytest.mark.parametrize(
    ("kind", "attention"),
    [(CohereConfig, "self_attn"), (GPTNeoXConfig, "attention"), (FalconConfig, "self_attention")],
)
def test_with_mlps_beside_attention_an_input_comes_back_meanwhile(
    kind: Any, attention: str
) -> None:
    sizes = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = kind(**sizes, intermediate_size=48, pad_token_id=0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").train()
    model.get_input_embeddings().requires_grad_(False)
    assert on_their_way(model, attention) == [[1, 1, 1, 0]]


def test_a_graph_that_is_let_go_lets_its_inputs_go(model: Any) -> None:
    set_activations(model, "offload", CPU)
    loss = model(input_ids=torch.arange(11)[None], use_cache=False).logits.sum()
    other = model(input_ids=torch.arange(5)[None], use_cache=False).logits.sum()
    del loss
    gc.collect()
    other.backward()  # its first layer's input has nothing left to fetch before it
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("failing", ["layer", "head", "nothing"])
def test_a_pass_given_up_leaves_nothing_on_the_device(model: Any, failing: str) -> None:
    """Neither the input that was leaving, nor memory under a copy that nobody waits for."""
    ids = torch.arange(11)[None]
    wanted = gradients(model, ids)
    copier = offload_through_counter(model)

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError

    module = {"layer": model.model.layers[2].mlp, "head": model.lm_head}.get(failing)
    hook = module.register_forward_pre_hook(fail) if module is not None else None
    with nullcontext() if hook is None else pytest.raises(torch.OutOfMemoryError):
        model(input_ids=ids, use_cache=False)
    gc.collect()
    begun = 3 if failing == "layer" else 4
    assert [storage() for storage in copier.left] == [None] * begun
    assert copier.waited_for == begun
    if hook is not None:
        hook.remove()
    assert torch.equal(gradients(model, ids), wanted)


def test_a_backward_pass_given_up_waits_for_the_input_on_its_way(model: Any) -> None:
    copier = offload_through_counter(model)

    def fail(_: Tensor) -> None:
        raise torch.OutOfMemoryError

    def give_up() -> None:
        hidden = model.model.layers[2].register_forward_hook(
            lambda _module, _inputs, output: output.register_hook(fail) and None
        )
        loss = model(input_ids=torch.arange(11)[None], use_cache=False).logits.sum()
        hidden.remove()
        with pytest.raises(torch.OutOfMemoryError):
            loss.backward()
        assert copier.on_the_way

    give_up()
    gc.collect()
    assert not copier.on_the_way


@pytest.mark.parametrize("activations", ["recompute", "offload"])
@pytest.mark.parametrize("kept", [0, 1, 2, 4, 9])
def test_the_last_layers_run_once_and_bits_stay(
    model: Any, activations: Any, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = torch.arange(11)[None]
    wanted = gradients(model, ids)
    set_activations(model, activations, CPU, kept)
    runs = [0] * 4
    for number, layer in enumerate(model.model.layers):

        def counted(hidden: Tensor, number: int = number, plain: Any = layer.mlp.forward) -> Tensor:
            runs[number] += 1
            found: Tensor = plain(hidden)
            return found

        monkeypatch.setattr(layer.mlp, "forward", counted)
    assert torch.equal(gradients(model, ids), wanted)
    assert runs == [2] * max(0, 4 - kept) + [1] * min(4, kept)
    set_activations(model, "keep", CPU, kept)
    gradients(model, ids)
    assert runs == [3] * max(0, 4 - kept) + [2] * min(4, kept)


def test_a_model_without_a_choice_for_each_layer_is_refused(model: Any) -> None:
    plain = torch.nn.ModuleList(torch.nn.Identity() for _ in model.model.layers)
    model.model.layers = plain
    with pytest.raises(ConfigError, match=r"Identity.*set memory\.kept_layers to 0"):
        set_activations(model, "recompute", CPU, 1)


def test_the_last_decision_counts(model: Any) -> None:
    ids = torch.arange(11)[None]
    wanted = gradients(model, ids)
    for activations in ("recompute", "offload", "keep", "offload", "recompute", "keep"):
        set_activations(model, activations, CPU)
        layer = model.model.layers[0]
        assert layer.gradient_checkpointing == (activations != "keep")
        if activations != "keep":
            function: Any = layer._gradient_checkpointing_func
            assert isinstance(getattr(function, "__self__", None), HostInputs) == (
                activations == "offload"
            )
        assert torch.equal(gradients(model, ids), wanted)
    assert not model.model.embed_tokens._forward_hooks
