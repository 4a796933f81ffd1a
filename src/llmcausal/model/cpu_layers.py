"""Decoder layers of Llama's form on a CPU, each computed as one function with its own backward.

Plain modules dequantize a 4-bit weight at every product, start a kernel for each cast, norm,
adapter and branch, and keep the inputs of each. Here frozen weights are dequantized once, and
layers with the same input are one product with their adapters. Products, activations and their
gradients have the compute dtype (bf16 or fp32). Norms, softmax and sums over a tree are in fp32
inside, and trained weights stay fp32. The backward pass recomputes what is cheap.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from bitsandbytes.nn import Linear4bit
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu

from llmcausal.losses.cross_entropy import product
from llmcausal.model.cpu_attention import (
    TreePlan,
    attend,
    attend_backward,
    attend_rows,
    plan_tree,
)
from llmcausal.model.fused import dense
from llmcausal.model.lora import Adapter, plain_adapters
from llmcausal.model.placement import base_model
from llmcausal.model.tree_attention import TreeBlocks

MEMORY_SHARE = 0.5
"""Largest part of the free host memory for dequantized weights."""
ROWS_AT_ONCE = 32
"""Rows that packed weights are laid out for; from 1 to 5120 rows no other layout is faster."""
_GROUPS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
_log = logging.getLogger(__name__)


@contextmanager
def whole_layers(model: Any, *, gradients: bool = True) -> Iterator[int]:
    """Computes each of the decoder's layers as one function; yields their number.

    Without gradients, weights that were quantized have the layout that the processor's products
    read: these copy a plain weight into it each time, which takes longer than a few rows' product.

    The model (also a `PeftModel`) must be on the CPU and have frozen decoder layers of Llama's
    form; a trial compares each layer's output. Another model, or one whose dequantized weights do
    not fit into the host's free memory, stays as it is (0).
    """
    decoder = _decoder(model)
    modules = list(getattr(decoder, "layers", ()))
    dtype = decoder.get_input_embeddings().weight.dtype if modules else torch.float32
    layers: list[Layer] = []
    with ExitStack() as stack:
        if modules and all(map(_has_form, modules)) and _fits(modules, dtype):
            layers = [Layer(module, dtype, gradients) for module in modules]
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


def count_whole(model: Any) -> int:
    """Returns how many of the decoder's layers `whole_layers` computes at present."""
    forwards = [vars(each).get("forward") for each in getattr(_decoder(model), "layers", ())]
    return sum(isinstance(getattr(each, "__self__", None), Layer) for each in forwards)


class _Calls:
    """Prepares each call of the decoder, and removes its padding."""

    def __init__(self, decoder: Any, layers: Sequence[Layer]) -> None:
        self.linears = [linear for layer in layers for linear in layer.linears]
        self.dtype = layers[0].first_norm.weight.dtype
        self.windowed = getattr(decoder.config, "sliding_window", None) is not None
        self.gradients = all(each.packed is None for each in self.linears)
        self.length: int | None = None
        self.taken = False

    def before(
        self, _decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Returns the arguments with a `Call` for the layers, or None if they run as plain."""
        self.length = None
        cache = kwargs.get("past_key_values")
        goes_on = cache is not None and cache.get_seq_length() > 0
        if not goes_on:  # until the last token the adapters stay the same
            self.taken = all(each.read_adapters() for each in self.linears)
        name = "input_ids" if kwargs.get("input_ids") is not None else "inputs_embeds"
        inputs = kwargs.get(name)
        caches = cache is not None or kwargs.get("use_cache")
        if args or inputs is None or not self.taken:
            return None
        if torch.is_grad_enabled() and (caches or not self.gradients):
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
        """Returns the output without the padding."""
        if self.length is not None:
            own = (slice(None), slice(self.length))
            output.last_hidden_state = output.last_hidden_state[own]
            if output.get("hidden_states") is not None:
                output.hidden_states = tuple(each[own] for each in output.hidden_states)
            self.length = None
        return output


def _decoder(model: Any) -> Any:
    base = base_model(model)
    return base.get_decoder() if hasattr(base, "get_decoder") else base


def _linears(module: Any) -> list[list[Any]]:
    attention, mlp = module.self_attn, module.mlp
    return [
        [getattr(parent, name) for name in names]
        for names, parent in zip(_GROUPS, (attention, attention, mlp, mlp), strict=True)
    ]


def _has_form(module: Any) -> bool:
    """Tells whether a layer has Llama's parts, frozen on the CPU, and no other hook."""
    try:
        linears = [base_of(each) for group in _linears(module) for each in group]
        norms = module.input_layernorm, module.post_attention_layernorm
    except AttributeError:
        return False
    if "forward" in vars(module):
        return False
    if not all(hasattr(norm, "weight") and hasattr(norm, "variance_epsilon") for norm in norms):
        return False
    return all(map(is_frozen, linears))


def _fits(modules: Sequence[Any], dtype: torch.dtype) -> bool:
    """Tells whether dequantized weights fit into the host's memory; warns if not."""
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


def _agrees(layer: Layer, decoder: Any, dtype: torch.dtype) -> bool:
    """Compares what a layer adds to its input with what its own forward adds."""
    nodes = 6
    generator = torch.Generator().manual_seed(0)  # the run's random numbers stay as they are
    width = len(layer.first_norm.weight)
    hidden = torch.randn(1, nodes, width, generator=generator).to(dtype)
    positions = torch.arange(nodes)[None]
    # Not the whole layer: in evaluation mode bitsandbytes repacks 4-bit weights on some CPUs.
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


class Layer:
    """A decoder layer and its parts."""

    def __init__(self, module: Any, dtype: torch.dtype, gradients: bool) -> None:
        self.module = module
        self.plain: Callable[..., Tensor] = module.forward
        # In the order of `_WholeLayer`'s arguments.
        self.linears = [Linears(group, dtype, gradients=gradients) for group in _linears(module)]
        self.query_key_value, self.output, self.gate_up, self.down = self.linears
        self.first_norm = Norm(module.input_layernorm)
        self.second_norm = Norm(module.post_attention_layernorm)
        self.width, self.scale = module.self_attn.head_dim, module.self_attn.scaling
        self.heads = self.output.inputs // self.width
        self.key_heads = (self.query_key_value.outputs[-1].stop // self.width - self.heads) // 2

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        """Replaces the module's forward."""
        call, embeddings = kwargs.get("tree_blocks"), kwargs.get("position_embeddings")
        if not isinstance(call, Call) or embeddings is None:
            return self.plain(hidden_states, **kwargs)
        cache = kwargs.get("past_key_values")
        with torch.autocast("cpu", enabled=False):
            if call.plan is None:
                return self._rows(hidden_states, kwargs.get("attention_mask"), embeddings, cache)
            trained = [matrix for each in self.linears for matrix in each.trained]
            rotation = call.rotation(embeddings)
            if cache is None:
                result: Tensor = _WholeLayer.apply(  # type: ignore[no-untyped-call]
                    hidden_states[0], self, rotation, call.plan, *trained
                )
                return result[None]
            result, read = self.over_tree(hidden_states[0], rotation, call.plan)
            key, value = (each[None, :, : call.length] for each in read[4:6])  # not the padding
            cache.update(key, value, self.module.self_attn.layer_idx)
            return result[None]

    def over_tree(
        self, hidden: Tensor, rotation: tuple[Tensor, Tensor], plan: TreePlan
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Returns the new hidden states [nodes, width], and what `_WholeLayer.backward` reads."""
        normed, factor = self.first_norm(hidden)
        joined, low = self.query_key_value(normed)
        query, key, value = self.states(joined, rotation)
        del joined
        attended = attend(query, key, value, plan)
        middle, output_low = self.output(attended)
        middle += hidden
        normed, middle_factor = self.second_norm(middle)
        gate_up, gate_up_low = self.gate_up(normed)
        gate, up = gate_up.chunk(2, dim=-1)
        result, down_low = self.down(silu(gate).mul_(up))
        result += middle
        return result, (
            hidden, factor, low, query, key, value, attended, output_low, middle, middle_factor,
            gate_up, gate_up_low, down_low, *rotation,
        )  # fmt: skip

    def _rows(
        self,
        hidden: Tensor,
        mask: Tensor | None,
        position_embeddings: tuple[Tensor, Tensor],
        cache: Any,
    ) -> Tensor:
        """Computes one new token of each row [rows, 1, width]."""
        rows = hidden.flatten(0, 1)
        normed, _ = self.first_norm(rows)
        half = self.width // 2
        cosine, sine = (each.flatten(0, 1)[:, None, :half] for each in position_embeddings)
        parts = self.query_key_value(normed)[0].view(len(rows), -1, self.width)
        source, value = parts.split([self.heads + self.key_heads, self.key_heads], dim=1)
        turned = torch.empty_like(source, memory_format=torch.contiguous_format)
        _rotate(source, turned, cosine, sine)
        query, key = turned.split([self.heads, self.key_heads], dim=1)
        layer = self.module.self_attn.layer_idx
        keys, values = cache.update(key[:, :, None], value[:, :, None], layer)
        attended = attend_rows(query * self.scale, keys, values, mask)
        middle = self.output(attended)[0].add_(rows)
        gate, up = self.gate_up(self.second_norm(middle)[0])[0].chunk(2, dim=-1)
        result: Tensor = self.down(silu(gate).mul_(up))[0]
        return result.add_(middle).view_as(hidden)

    def states(
        self, joined: Tensor, rotation: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns query, key and value as `attend` takes them, from one product's outputs."""
        own_query, own_key, own_value = self._split(joined)
        nodes, key_heads, group, width = own_query.shape
        query = joined.new_empty(key_heads, nodes, group, width)
        key = joined.new_empty(key_heads, nodes, width)
        cosine, sine = rotation
        scaled = cosine[:, None] * self.scale, sine[:, None] * self.scale
        _rotate(own_query, query.transpose(0, 1), *scaled)
        _rotate(own_key, key.transpose(0, 1), cosine, sine)
        return query, key, own_value.transpose(0, 1).contiguous()

    def states_backward(
        self, gradients: tuple[Tensor, Tensor, Tensor], rotation: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Returns the gradient of the product's outputs."""
        query, key, value = gradients
        joined = key.new_empty(key.shape[1], (self.heads + 2 * self.key_heads) * self.width)
        of_query, of_key, of_value = self._split(joined)
        cosine, sine = rotation
        scaled = cosine[:, None] * self.scale, sine[:, None] * -self.scale
        _rotate(query.transpose(0, 1), of_query, *scaled)
        _rotate(key.transpose(0, 1), of_key, cosine, -sine)
        of_value.copy_(value.transpose(0, 1))
        return joined

    def _split(self, joined: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns views of query [nodes, key heads, group, width], key and value, by head."""
        parts = joined.view(len(joined), -1, self.width)
        query, key, value = parts.split([self.heads, self.key_heads, self.key_heads], dim=1)
        return query.unflatten(1, (self.key_heads, -1)), key, value


def _rotate(source: Tensor, target: Tensor, cosine: Tensor, sine: Tensor) -> None:
    """Writes rotary position embeddings of both halves (Su et al., RoFormer, 2021)."""
    half = source.shape[-1] // 2
    first, second = source[..., :half], source[..., half:]
    torch.mul(first, cosine, out=target[..., :half]).addcmul_(second, sine, value=-1)
    torch.mul(second, cosine, out=target[..., half:]).addcmul_(first, sine)


class _WholeLayer(torch.autograd.Function):
    """A layer over one tree. Keeps what products and attention read, and no casts."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        layer: Layer,
        rotation: tuple[Tensor, Tensor],
        plan: TreePlan,
        *trained: Tensor,
    ) -> Tensor:
        result, read = layer.over_tree(hidden, rotation, plan)
        ctx.save_for_backward(*read)
        ctx.layer, ctx.plan = layer, plan
        ctx.adapters = [each.adapters for each in layer.linears]
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Any, ...]:
        (
            hidden, factor, low, query, key, value, attended, output_low, middle, middle_factor,
            gate_up, gate_up_low, down_low, *rotation,
        ) = ctx.saved_tensors  # fmt: skip
        layer: Layer = ctx.layer
        in_joined, in_output, in_gate_up, in_down = ctx.adapters
        given = upstream[0].contiguous()

        gate, up = gate_up.chunk(2, dim=-1)
        active = silu(gate)
        of_active, of_down = layer.down.backward(in_down, given, active * up, down_low)
        of_gate_up = torch.empty_like(gate_up)
        torch.mul(of_active, active, out=of_gate_up[:, gate.shape[1] :])
        torch.ops.aten.silu_backward.grad_input(
            of_active.mul_(up), gate, grad_input=of_gate_up[:, : gate.shape[1]]
        )
        del active, of_active
        normed = layer.second_norm.apply(middle, middle_factor)
        of_normed, of_gate_up_trained = layer.gate_up.backward(
            in_gate_up, of_gate_up, normed, gate_up_low
        )
        del of_gate_up
        of_middle = layer.second_norm.backward(of_normed, middle, middle_factor)
        of_middle = of_middle.add_(given).to(given.dtype)

        of_attended, of_output = layer.output.backward(in_output, of_middle, attended, output_low)
        found = attend_backward(of_attended, query, key, value, ctx.plan)
        of_joined = layer.states_backward(found, (rotation[0], rotation[1]))
        normed = layer.first_norm.apply(hidden, factor)
        to_input = ctx.needs_input_grad[0]
        of_normed, of_joined_trained = layer.query_key_value.backward(
            in_joined, of_joined, normed, low, to_input=to_input
        )
        of_hidden = None
        if to_input:
            of_hidden = layer.first_norm.backward(of_normed, hidden, factor)
            of_hidden = of_hidden.add_(of_middle).to(given.dtype)
        trained = [*of_joined_trained, *of_output, *of_gate_up_trained, *of_down]
        return of_hidden, None, None, None, *trained


@dataclass
class Call:
    """What all layers of one pass share."""

    plan: TreePlan | None  # of the tree; None if rows continue from a cache
    length: int = 0  # nodes without padding
    _rotation: tuple[Tensor, Tensor] | None = None

    def rotation(self, embeddings: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Returns cosines and sines of half a head [nodes, 1, half]."""
        if self._rotation is None:
            cosine, sine = (each[0, :, None, : each.shape[-1] // 2] for each in embeddings)
            self._rotation = cosine.contiguous(), sine.contiguous()
        return self._rotation


@dataclass(frozen=True)
class _Adapter(Adapter):
    outputs: slice  # of the joined layers, that it adds to


@dataclass(frozen=True)
class Adapters:
    """The joined adapters of a `Linears` at one moment."""

    parts: tuple[_Adapter, ...] = ()
    down: Tensor | None = None  # their A, one below the other [ranks, in]; None without adapters
    up: Tensor | None = None  # their scaled B, each at its outputs and ranks [out, ranks]


class Linears:
    """Frozen linear layers with the same input, as one product with their adapters.

    Hu et al., LoRA, 2021: x @ W.T + b + scale (x @ A.T) @ B.T for each layer.
    """

    @torch.inference_mode(False)  # training may use these weights after an evaluation
    def __init__(self, modules: Sequence[Any], dtype: torch.dtype, *, gradients: bool) -> None:
        self.modules = modules
        self.dtype = dtype
        bases = [base_of(module) for module in modules]
        self.inputs: int = bases[0].in_features
        self.weight = torch.cat([_weight(base).to(dtype) for base in bases])
        ends = torch.tensor([base.out_features for base in bases]).cumsum(0).tolist()
        self.outputs = [slice(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
        for base, outputs in zip(bases, self.outputs, strict=True):
            if not isinstance(base, Linear4bit):  # held once: the layer's weight is a part of it
                base.weight.data = self.weight[outputs]
        biases = [base.bias for base in bases]
        self.bias: Tensor | None = None
        if any(bias is not None for bias in biases):
            parts = [
                self.weight.new_zeros(base.out_features) if bias is None else bias.detach()
                for base, bias in zip(bases, biases, strict=True)
            ]
            self.bias = torch.cat(parts).to(dtype)
        self.adapters = Adapters()
        self.packed: Tensor | None = None
        if not gradients and all(isinstance(base, Linear4bit) for base in bases) and _packs(dtype):
            self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight, ROWS_AT_ONCE)
            self.weight = self.weight.new_empty(0)

    @torch.inference_mode(False)
    def let_go(self) -> None:
        """Restores the weights of layers that are not quantized."""
        for base, outputs in zip(map(base_of, self.modules), self.outputs, strict=True):
            if not isinstance(base, Linear4bit):
                base.weight.data = self.weight[outputs].clone()

    def read_adapters(self) -> bool:
        """Takes the current adapters; returns whether they can be computed here."""
        parts: list[_Adapter] = []
        for module, outputs in zip(self.modules, self.outputs, strict=True):
            if not isinstance(module, LoraLayer):
                continue
            found = plain_adapters(module)
            if found is None:
                return False
            parts += [_Adapter(each.down, each.up, each.scale, outputs) for each in found]
        self.adapters = self._joined(parts)
        return True

    def _joined(self, parts: list[_Adapter]) -> Adapters:
        if not parts:
            return Adapters()
        downs = [each.down.detach() for each in parts]
        up = self.weight.new_zeros(self.outputs[-1].stop, sum(map(len, downs)))
        start = 0
        for each, down in zip(parts, downs, strict=True):
            columns = slice(start, start + len(down))
            up[each.outputs, columns] = each.up.detach().to(self.dtype) * each.scale
            start = columns.stop
        return Adapters(tuple(parts), torch.cat(downs).to(self.dtype), up)

    @property
    def trained(self) -> list[Tensor]:
        """Both matrices of each adapter."""
        return [matrix for each in self.adapters.parts for matrix in (each.down, each.up)]

    def __call__(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the outputs [n, out], and x @ A.T of all adapters [n, ranks]."""
        if self.packed is None:
            result = product(inputs, self.weight)
        else:
            result = torch.ops.mkldnn._linear_pointwise(inputs, self.packed, None, "none", [], "")
        if self.bias is not None:
            result += self.bias
        down, up = self.adapters.down, self.adapters.up
        if down is None or up is None:
            return result, inputs.new_empty(0)
        low = inputs @ down.T
        return result.addmm_(low, up.T), low

    def backward(
        self,
        adapters: Adapters,
        upstream: Tensor,
        inputs: Tensor,
        low: Tensor,
        *,
        to_input: bool = True,
    ) -> tuple[Tensor, list[Tensor]]:
        """Returns the gradient of the inputs (not filled in without `to_input`), and of `trained`.

        Args:
            adapters: The forward pass's; a later call may have read others.
            upstream: Gradient of the outputs [n, out].
            inputs: Of the forward pass [n, in].
            low: The forward pass's second result [n, ranks].
        """
        of_input = product(upstream, self.weight.T) if to_input else torch.empty_like(inputs)
        if adapters.down is None or adapters.up is None:
            return of_input, []
        of_low = upstream @ adapters.up
        if to_input:
            of_input.addmm_(of_low, adapters.down)
        of_down = of_low.T @ inputs
        gradients, start = [], 0
        for each in adapters.parts:
            part = slice(start, start + len(each.down))
            start = part.stop
            of_up = (low[:, part].T @ upstream[:, each.outputs]).T
            gradients += [of_down[part].to(each.down.dtype), of_up.to(each.up.dtype) * each.scale]
        return of_input, gradients


def _packs(dtype: torch.dtype) -> bool:
    """Tells whether oneDNN has a layout of its own for weights of this dtype on this processor."""
    if not torch.backends.mkldnn.is_available():
        return False
    half: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype == torch.float32 or (dtype == torch.bfloat16 and half)


def base_of(module: Any) -> Any:
    """Returns the frozen layer inside a LoRA layer, or the layer itself."""
    return module.get_base_layer() if isinstance(module, LoraLayer) else module


def _weight(layer: Any) -> Tensor:
    return dense(layer.weight.data, getattr(layer.weight, "quant_state", None))


def is_frozen(layer: Any) -> bool:
    """Tells whether a layer is x @ W.T + b on the CPU, with a whole, frozen W."""
    if isinstance(layer, Linear4bit):
        known = getattr(layer.weight, "quant_state", None) is not None
    else:
        known = type(layer) is nn.Linear and type(layer.weight) is nn.Parameter
    return known and layer.weight.device.type == "cpu" and not layer.weight.requires_grad


class Norm:
    """Root mean square norm (Zhang and Sennrich, 2019), summed in fp32."""

    def __init__(self, module: Any) -> None:
        self.weight: Tensor = module.weight.detach()
        self.epsilon: float = module.variance_epsilon

    def __call__(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the normed rows, and each row's factor [n, 1]."""
        wide = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
        factor = torch.rsqrt(wide.square().mean(-1, keepdim=True).add_(self.epsilon))
        return self.apply(inputs, factor), factor

    def apply(self, inputs: Tensor, factor: Tensor) -> Tensor:
        return (inputs.to(factor.dtype) * factor).to(inputs.dtype).mul_(self.weight)

    def backward(self, upstream: Tensor, inputs: Tensor, factor: Tensor) -> Tensor:
        """Returns the gradient of the inputs, wide."""
        normed = inputs.to(factor.dtype) * factor
        given = upstream.to(factor.dtype) * self.weight
        share = (normed * given).mean(-1, keepdim=True)
        return given.addcmul_(normed, share, value=-1).mul_(factor)
