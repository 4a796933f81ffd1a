"""Swaps a model's decoder layers for `layer.Layer` for as long as a context is open.

Plain modules dequantize a 4-bit weight at every product, start a kernel for each cast, norm,
adapter and branch, and keep the inputs of each. Outside the context, and for a model that it does
not take, everything runs as transformers, peft and bitsandbytes do.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import psutil
import torch
from bitsandbytes.nn import Linear4bit
from peft.tuners.lora import LoraLayer
from torch import nn

from llmcausal.model.cpu.attention import plan_tree
from llmcausal.model.cpu.layer import Call, Layer, Linears, Norm, Shapes, base_of, is_frozen
from llmcausal.model.tree_attention import TreeBlocks

MEMORY_SHARE = 0.5
"""Part of the free host memory that dequantized weights may take."""
_GROUPS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
_log = logging.getLogger(__name__)


@contextmanager
def whole_layers(model: Any) -> Iterator[int]:
    """Computes the decoder's layers whole meanwhile, and yields how many.

    Takes a model (also a `PeftModel`) on the CPU with frozen decoder layers of Llama's form: each
    layer's output is compared with its own. Another model, or one whose dequantized weights do not
    fit in the host's free memory, is left as it is.
    """
    decoder = _decoder(model)
    modules = list(getattr(decoder, "layers", ()))
    dtype = decoder.get_input_embeddings().weight.dtype if modules else torch.float32
    layers: list[Layer] = []
    with ExitStack() as stack:
        if modules and all(map(_has_form, modules)) and _fits(modules, dtype):
            layers = [_taken_apart(module, dtype) for module in modules]
            for layer in layers:
                for each in layer.linears:
                    stack.callback(each.let_go)
            if not all(_agrees(layer, decoder, dtype) for layer in layers):
                layers = []
        if layers:
            calls = _Calls(decoder, layers)
            for layer in layers:
                layer.module.forward = layer.forward
                stack.callback(layer.module.__dict__.pop, "forward")
            before = decoder.register_forward_pre_hook(calls.before, with_kwargs=True)
            after = decoder.register_forward_hook(calls.after)
            stack.callback(before.remove)
            stack.callback(after.remove)
        yield len(layers)


class _Calls:
    """Prepares each call of the decoder, and takes its padding off again."""

    def __init__(self, decoder: Any, layers: Sequence[Layer]) -> None:
        self.linears = [linear for layer in layers for linear in layer.linears]
        self.dtype = layers[0].first_norm.weight.dtype
        self.windowed = getattr(decoder.config, "sliding_window", None) is not None
        self.length: int | None = None
        self.taken = False

    def before(
        self, _decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Returns the arguments with a `Call` for the layers, or None where they run as plain."""
        self.length = None
        cache = kwargs.get("past_key_values")
        goes_on = cache is not None and cache.get_seq_length() > 0
        if not goes_on:  # from here to the last token the adapters stay as they are
            self.taken = all(each.read_adapters() for each in self.linears)
        name = "input_ids" if kwargs.get("input_ids") is not None else "inputs_embeds"
        inputs = kwargs.get(name)
        caches = cache is not None or kwargs.get("use_cache")
        if args or inputs is None or not self.taken or (caches and torch.is_grad_enabled()):
            return None
        if goes_on:
            if inputs.shape[1] != 1:
                return None
            return args, {**kwargs, "tree_blocks": Call(None)}
        blocks, length = kwargs.get("tree_blocks"), inputs.shape[1]
        if isinstance(blocks, TreeBlocks):
            ends = blocks.subtree_ends
        elif blocks is None and kwargs.get("attention_mask") is None and not self.windowed:
            ends = torch.full((length,), length)  # a sequence is a tree of one branch
        else:
            return None
        if len(inputs) != 1:
            return None
        plan = plan_tree(ends, self.dtype)
        positions = kwargs.get("position_ids")
        if positions is None:
            positions = torch.arange(length)[None]
        more = plan.nodes - length
        self.length = length
        return args, {
            **kwargs,
            name: nn.functional.pad(inputs, (0, 0) * (inputs.dim() - 2) + (0, more)),
            "position_ids": nn.functional.pad(positions, (0, more)),
            "attention_mask": torch.zeros((1, 1, 1, 1), dtype=self.dtype),  # unread
            "tree_blocks": Call(plan, length),
            "use_cache": kwargs.get("use_cache") or False,
        }

    def after(self, _decoder: Any, _args: Any, output: Any) -> Any:
        """Returns the output for the nodes that were asked for."""
        if self.length is not None:
            own = (slice(None), slice(self.length))
            output.last_hidden_state = output.last_hidden_state[own]
            if output.get("hidden_states") is not None:
                output.hidden_states = tuple(each[own] for each in output.hidden_states)
            self.length = None
        return output


def _decoder(model: Any) -> Any:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base.get_decoder() if hasattr(base, "get_decoder") else base


def _linears(module: Any) -> list[list[Any]] | None:
    attention, mlp = getattr(module, "self_attn", None), getattr(module, "mlp", None)
    groups = [
        [getattr(parent, name, None) for name in names]
        for names, parent in zip(_GROUPS, (attention, attention, mlp, mlp), strict=True)
    ]
    return groups if all(each is not None for group in groups for each in group) else None


def _has_form(module: Any) -> bool:
    """Tells whether a layer has Llama's parts, frozen on the CPU, and no one else's hook."""
    groups = _linears(module)
    norms = [getattr(module, f"{name}_layernorm", None) for name in ("input", "post_attention")]
    if groups is None or "forward" in vars(module):
        return False
    if not all(hasattr(norm, "weight") and hasattr(norm, "variance_epsilon") for norm in norms):
        return False
    return all(is_frozen(base_of(each)) for group in groups for each in group)


def _fits(modules: Sequence[Any], dtype: torch.dtype) -> bool:
    """Tells whether the host has the memory for what is dequantized, and warns if it has not."""
    packed = [each for module in modules for each in module.modules()
              if isinstance(each, Linear4bit)]  # fmt: skip
    needed = dtype.itemsize * sum(each.out_features * each.in_features for each in packed)
    available = psutil.virtual_memory().available
    if needed <= MEMORY_SHARE * available:
        return True
    _log.warning(
        "dequantized weights would take %.1f of %.1f GiB of free memory: continuing with quantized "
        "ones, which is slower",
        needed / 2**30,
        available / 2**30,
    )
    return False


def _taken_apart(module: Any, dtype: torch.dtype) -> Layer:
    attention = module.self_attn
    width = attention.head_dim
    first, second = module.input_layernorm, module.post_attention_layernorm
    groups = _linears(module)
    assert groups is not None
    joined, output, gate_up, down = (Linears(group, dtype) for group in groups)
    heads = output.weight.shape[1] // width
    key_heads = (len(joined.weight) // width - heads) // 2
    return Layer(
        module,
        Shapes(heads, key_heads, width, attention.scaling),
        Norm(first.weight.detach(), first.variance_epsilon),
        joined,
        output,
        Norm(second.weight.detach(), second.variance_epsilon),
        gate_up,
        down,
    )


def _agrees(layer: Layer, decoder: Any, dtype: torch.dtype) -> bool:
    """Compares what a layer adds to its input with what its own forward adds."""
    nodes = 6
    generator = torch.Generator().manual_seed(0)  # the run's random numbers stay as they are
    width = len(layer.first_norm.weight)
    hidden = torch.randn(1, nodes, width, generator=generator).to(dtype)
    positions = torch.arange(nodes)[None]
    # Not all of it: in evaluation mode bitsandbytes repacks 4-bit weights for good on some CPUs.
    drops: Iterator[Any] = (
        each for each in layer.module.modules() if isinstance(each, (nn.Dropout, LoraLayer))
    )
    training = [(module, module.training) for module in drops]
    try:
        for module, _ in training:
            module.training = False
        if not all(each.read_adapters() for each in layer.linears):
            return False
        half = dtype == torch.bfloat16
        with torch.no_grad(), torch.autocast("cpu", dtype=dtype, enabled=half):
            turned = decoder.rotary_emb(hidden, positions)
            wanted = layer.plain(hidden, position_ids=positions, position_embeddings=turned)
        plan = plan_tree(torch.full((nodes,), nodes), dtype)
        padded = nn.functional.pad(hidden, (0, 0, 0, plan.nodes - nodes))
        places = nn.functional.pad(positions, (0, plan.nodes - nodes))
        with torch.no_grad():
            found = layer.forward(
                padded,
                position_embeddings=decoder.rotary_emb(padded, places),
                tree_blocks=Call(plan, nodes),
            )[:, :nodes]
    finally:
        for module, was in training:
            module.training = was
    wanted, found = wanted - hidden, found - hidden
    return bool((found - wanted).norm() <= (0.05 if half else 1e-3) * wanted.norm())
