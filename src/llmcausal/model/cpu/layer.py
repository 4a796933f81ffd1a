"""One decoder layer of Llama's form, as a function with a backward of its own.

Products, activations and their gradients are in the compute dtype (bf16 or fp32); norms, softmax
and sums over a tree are in fp32 inside, and trained weights stay fp32. The backward pass computes
again what is cheap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from llmcausal.model.cpu.attention import TreePlan, attend, attend_backward
from llmcausal.model.cpu.linear import Linears, Norm


@dataclass
class Shapes:
    """Heads, heads of keys and values, width of one, and the factor on the scores."""

    heads: int
    key_heads: int
    width: int
    scale: float


@dataclass
class Layer:
    """A decoder layer, taken apart."""

    module: Any
    shapes: Shapes
    first_norm: Norm
    query_key_value: Linears
    output: Linears
    second_norm: Norm
    gate_up: Linears
    down: Linears
    plain: Callable[..., Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.plain = self.module.forward

    @property
    def linears(self) -> tuple[Linears, ...]:
        """Its products, in the order of `_WholeLayer`'s arguments."""
        return self.query_key_value, self.output, self.gate_up, self.down

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        """Stands in for the module's own."""
        call = kwargs.get("tree_blocks")
        if not isinstance(call, Call) or position_embeddings is None:
            return self.plain(
                hidden_states,
                attention_mask=attention_mask,
                position_embeddings=position_embeddings,
                past_key_values=past_key_values,
                **kwargs,
            )
        with torch.autocast("cpu", enabled=False):
            if call.plan is None:
                return self._rows(
                    hidden_states, attention_mask, position_embeddings, past_key_values
                )
            trained = [matrix for each in self.linears for matrix in each.trained]
            rotation = call.rotation(position_embeddings)
            if past_key_values is None:
                result: Tensor = _WholeLayer.apply(  # type: ignore[no-untyped-call]
                    hidden_states[0], self, rotation, call.plan, *trained
                )
                return result[None]
            return self._prefill(hidden_states[0], rotation, call, past_key_values)[None]

    def over_tree(
        self, hidden: Tensor, rotation: tuple[Tensor, Tensor], plan: TreePlan
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Computes the layer for every node of a tree.

        Returns:
            The new hidden states [nodes, width], and what `_WholeLayer.backward` reads, in its
            order.
        """
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

    def _prefill(
        self, hidden: Tensor, rotation: tuple[Tensor, Tensor], call: Call, cache: Any
    ) -> Tensor:
        assert call.plan is not None
        result, (_, _, _, _, key, value, *_) = self.over_tree(hidden, rotation, call.plan)
        kept = (None, slice(None), slice(call.length))  # not the padding
        cache.update(key[kept], value[kept], self.module.self_attn.layer_idx)
        return result

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
        cosine, sine = (each.flatten(0, 1) for each in position_embeddings)
        shapes = self.shapes
        half = shapes.width // 2
        rotation = cosine[:, None, :half], sine[:, None, :half]
        parts = self.query_key_value(normed)[0].view(len(rows), -1, shapes.width)
        turned = parts.new_empty(len(rows), shapes.heads + shapes.key_heads, shapes.width)
        _rotate(parts[:, : shapes.heads + shapes.key_heads], turned, *rotation)
        query, key = turned.split([shapes.heads, shapes.key_heads], dim=1)
        value = parts[:, shapes.heads + shapes.key_heads :]
        keys, values = cache.update(
            key[:, :, None], value[:, :, None], self.module.self_attn.layer_idx
        )
        attended, _ = sdpa_attention_forward(
            self.module.self_attn, query[:, :, None], keys, values, mask, scaling=shapes.scale
        )
        middle = self.output(attended.reshape(len(rows), -1))[0].add_(rows)
        gate, up = self.gate_up(self.second_norm(middle)[0])[0].chunk(2, dim=-1)
        return self.down(silu(gate).mul_(up))[0].add_(middle).view_as(hidden)

    def states(
        self, joined: Tensor, rotation: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns query, key and value as `attend` takes them, from one product's outputs."""
        shapes, nodes = self.shapes, len(joined)
        group = shapes.heads // shapes.key_heads
        parts = joined.view(nodes, -1, shapes.width)
        query = joined.new_empty(shapes.key_heads, nodes, group, shapes.width)
        key = joined.new_empty(shapes.key_heads, nodes, shapes.width)
        cosine, sine = rotation
        _rotate(
            parts[:, : shapes.heads].unflatten(1, (shapes.key_heads, group)),
            query.transpose(0, 1),
            cosine[:, None] * shapes.scale,
            sine[:, None] * shapes.scale,
        )
        both = slice(shapes.heads, shapes.heads + shapes.key_heads)
        _rotate(parts[:, both], key.transpose(0, 1), cosine, sine)
        value = parts[:, shapes.heads + shapes.key_heads :].transpose(0, 1).contiguous()
        return query, key, value

    def states_backward(
        self, gradients: tuple[Tensor, Tensor, Tensor], rotation: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Returns the gradient of the product's outputs."""
        query, key, value = gradients
        shapes, nodes = self.shapes, key.shape[1]
        group = shapes.heads // shapes.key_heads
        joined = key.new_empty(nodes, (shapes.heads + 2 * shapes.key_heads) * shapes.width)
        parts = joined.view(nodes, -1, shapes.width)
        cosine, sine = rotation
        _rotate(
            query.transpose(0, 1),
            parts[:, : shapes.heads].unflatten(1, (shapes.key_heads, group)),
            cosine[:, None] * shapes.scale,
            sine[:, None] * -shapes.scale,
        )
        both = slice(shapes.heads, shapes.heads + shapes.key_heads)
        _rotate(key.transpose(0, 1), parts[:, both], cosine, -sine)
        parts[:, shapes.heads + shapes.key_heads :] = value.transpose(0, 1)
        return joined


def _rotate(source: Tensor, target: Tensor, cosine: Tensor, sine: Tensor) -> None:
    """Writes rotary position embeddings of both halves (Su et al., RoFormer, 2021)."""
    half = source.shape[-1] // 2
    first, second = source[..., :half], source[..., half:]
    torch.mul(first, cosine, out=target[..., :half]).addcmul_(second, sine, value=-1)
    torch.mul(second, cosine, out=target[..., half:]).addcmul_(first, sine)


class _WholeLayer(torch.autograd.Function):
    """A layer over one tree. Keeps what the products and the attention read, and no casts."""

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


class Call:
    """One pass through all layers: its plan, and what they share.

    Attributes:
        plan: Of the tree; None where rows go on from a cache.
        length: Nodes that are no padding.
    """

    def __init__(self, plan: TreePlan | None, length: int = 0) -> None:
        self.plan = plan
        self.length = length
        self._rotation: tuple[Tensor, Tensor] | None = None

    def rotation(self, embeddings: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Returns cosines and sines of half a head [nodes, 1, half]."""
        if self._rotation is None:
            cosine, sine = (each[0, :, None, : each.shape[-1] // 2] for each in embeddings)
            self._rotation = cosine.contiguous(), sine.contiguous()
        return self._rotation
