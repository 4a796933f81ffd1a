"""A causal language model's parts, so that logits exist only where they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from llmcausal.errors import ConfigError, ModelError
from llmcausal.losses.cross_entropy import product
from llmcausal.model.placement import (
    HostHead,
    base_model,
    compute_device,
    layer_stack,
    streamed_product,
)
from llmcausal.model.tree_attention import TREE_ATTENTION

ALL_LAYERS_MASK = "full_attention"
SLIDING_MASK = "sliding_attention"


@dataclass(frozen=True)
class LayerRows:
    """Hidden states that a pass returns besides the last."""

    layer: int  # -1 for the last, or 0 (embedding) to layers
    rows: Tensor | None = None  # their indices [n]; None for all


@dataclass(frozen=True)
class Trunk:
    """A model's parts that a step calls."""

    decoder: nn.Module  # token ids to hidden states [1, tokens, width]; ends with the final norm
    device: torch.device  # where the decoder computes; tokens go there
    head: Tensor  # the frozen output projection, [vocabulary, width]; in host memory if streamed
    bias: Tensor | None  # its bias [vocabulary], if it has one; where the head is
    # Rows of the head on the device at one time; None if the whole head is there.
    vocabulary_chunk: int | None
    softcap: float | None  # logits are `softcap * tanh(logits / softcap)` (Gemma 2), or None
    layers: int  # number of decoder layers
    window: int | None  # sliding attention window in tokens, or None
    mask_kinds: tuple[str, ...]  # kinds of mask the decoder takes in a dict, or empty for one mask
    additive_masks: bool  # whether masks are added to the scores (eager) rather than boolean
    takes_blocks: bool  # whether its attention takes `tree_blocks` instead of a mask

    def embeddings(self, tokens: Tensor) -> Tensor:
        """Looks up the decoder's input [n, width] for token ids [n]."""
        decoder: Any = self.decoder
        rows: Tensor = decoder.get_input_embeddings()(tokens[None])[0]
        return rows

    def hidden_states(
        self,
        tokens: Tensor,
        positions: Tensor | None,
        wanted: Sequence[LayerRows] = (),
        shift: Tensor | None = None,
        **attention: Any,
    ) -> tuple[Tensor, list[Tensor]]:
        """Runs the decoder once on one sequence or tree.

        Args:
            tokens: Token ids [n].
            positions: Rotary positions [n]; None counts from 0.
            wanted: Which hidden states to return besides the last.
            shift: Added to the embeddings [n, width].
            **attention: `attention_mask` or `tree_blocks`; neither is plain causal attention.

        Returns:
            The last hidden state [n, width], and the rows of each `wanted` [rows, width].
        """
        read = {"input_ids": tokens[None]}
        if shift is not None:
            read = {"inputs_embeds": (self.embeddings(tokens) + shift)[None]}
        with self._inputs_of(wanted) as inputs:
            output = self.decoder(
                **read,
                position_ids=None if positions is None else positions[None],
                use_cache=False,
                **attention,
            )
        last = output.last_hidden_state[0]
        found = [
            inputs[index] if index in inputs else _rows_of(last, each.rows)
            for index, each in enumerate(wanted)
        ]
        return last, found

    @contextmanager
    def _inputs_of(self, wanted: Sequence[LayerRows]) -> Iterator[dict[int, Tensor]]:
        """Catches layers' inputs; transformers would keep those of every layer."""
        inputs: dict[int, Tensor] = {}

        def catch(
            index: int, rows: Tensor | None, _module: Any, args: Any, kwargs: dict[str, Any]
        ) -> None:
            states = args[0] if args else kwargs["hidden_states"]
            inputs[index] = _rows_of(states[0], rows)

        with ExitStack() as handles:
            for index, each in enumerate(wanted):
                if 0 <= each.layer < self.layers:
                    layer = layer_stack(self.decoder, self.layers)[each.layer]
                    hook = partial(catch, index, each.rows)
                    handle = layer.register_forward_pre_hook(hook, with_kwargs=True)
                    handles.callback(handle.remove)
            yield inputs

    def logits(self, hidden: Tensor) -> Tensor:
        """Applies the output head to hidden states [n, width], giving [n, vocabulary]."""
        hidden = hidden.to(self.head.dtype)
        if self.vocabulary_chunk is not None:
            raw = streamed_product(hidden, self.head, self.bias, self.vocabulary_chunk)
        else:
            raw = product(hidden, self.head)
            raw = raw if self.bias is None else raw + self.bias
        return raw if self.softcap is None else self.softcap * torch.tanh(raw / self.softcap)


def _rows_of(states: Tensor, rows: Tensor | None) -> Tensor:
    return states if rows is None else states[rows]


def find_trunk(model: nn.Module) -> Trunk:
    """Finds parts as `take_apart`; raises a `ModelError` if they do not give the model's logits."""
    trunk = take_apart(model)
    _prove(base_model(model), trunk)
    return trunk


def take_apart(model: nn.Module) -> Trunk:
    """Finds a (peft-wrapped) model's parts; a `ModelError` if it has no frozen output head."""
    base = base_model(model)
    if not isinstance(base, PreTrainedModel):
        raise ModelError(f"{type(base).__name__}: not a transformers causal language model")
    head = base.get_output_embeddings()
    if head is None or head.weight.requires_grad:
        raise ModelError(f"{type(base).__name__}: needs a frozen output head to train against")
    config = base.config.get_text_config()
    layer_types = getattr(config, "layer_types", None) or ()
    return Trunk(
        decoder=base.get_decoder(),
        device=compute_device(base),
        head=head.weight,
        bias=getattr(head, "bias", None),
        vocabulary_chunk=head.vocabulary_chunk if isinstance(head, HostHead) else None,
        softcap=getattr(config, "final_logit_softcapping", None),
        layers=config.num_hidden_layers,
        window=_window(config, layer_types),
        mask_kinds=tuple(sorted(set(layer_types))),
        additive_masks=config._attn_implementation == "eager",
        takes_blocks=config._attn_implementation == TREE_ATTENTION,
    )


def check_layer(layers: int, layer: int) -> None:
    """Raises a `ConfigError` for a `loss.layer` that the model does not have."""
    if not -1 <= layer <= layers:
        raise ConfigError(f"loss.layer = {layer}: this model has layers 0 to {layers}, or -1")


def check_takes_embeddings(trunk: Trunk) -> None:
    """Raises a `ModelError` if embeddings alone do not give a model's states (Gemma 3n)."""
    try:
        with _tried(trunk.decoder, trunk) as tokens:
            plain, _ = trunk.hidden_states(tokens, None)
            shift = torch.zeros_like(trunk.embeddings(tokens))
            given, _ = trunk.hidden_states(tokens, None, shift=shift)
        same = torch.allclose(plain, given, rtol=1e-3, atol=1e-3 * plain.abs().max().item())
    except torch.cuda.OutOfMemoryError:
        raise
    except (TypeError, ValueError, RuntimeError):
        same = False
    if not same:
        raise ModelError(
            f"{type(trunk.decoder).__name__}: computes something else from embeddings than from "
            "token ids, so an adversary cannot move them; set loss.lambda_adversarial to 0"
        )


def _window(config: Any, layer_types: Any) -> int | None:
    window = getattr(config, "sliding_window", None)
    if window is None or not getattr(config, "use_sliding_window", True):
        return None
    if layer_types and SLIDING_MASK not in layer_types:
        return None
    return int(window)


@contextmanager
def _tried(module: nn.Module, trunk: Trunk) -> Iterator[Tensor]:
    """Puts a module into evaluation mode, without gradients; yields a few token ids to try."""
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield torch.arange(3, 11, device=trunk.device) % len(trunk.head)
    finally:
        module.train(training)


def _prove(base: Any, trunk: Trunk) -> None:
    with _tried(base, trunk) as tokens:
        try:
            whole = base(input_ids=tokens[None], use_cache=False).logits[0].float()
        except ValueError as error:
            raise ModelError(
                f"{type(base).__name__}: {error} (try `--set model.attention=eager`)"
            ) from error
        last, _ = trunk.hidden_states(tokens, None)
        parts = trunk.logits(last).float()
    if not torch.allclose(whole, parts, rtol=1e-2, atol=1e-2 * whole.abs().max().item()):
        raise ModelError(
            f"{type(base).__name__}: its logits are not head(decoder(x)); this architecture "
            "post-processes them in a way that is not supported"
        )
