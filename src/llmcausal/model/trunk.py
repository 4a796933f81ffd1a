"""A causal language model taken apart, so that logits exist only where they are needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from llmcausal.errors import ConfigError, ModelError
from llmcausal.model.tree_attention import TREE_ATTENTION

ALL_LAYERS_MASK = "full_attention"
SLIDING_MASK = "sliding_attention"


@dataclass(frozen=True)
class Trunk:
    """The parts of a model that a step calls.

    Attributes:
        decoder: Token ids to hidden states [1, tokens, width]; ends with the final norm.
        head: The frozen output projection, [vocabulary, width].
        bias: Its bias [vocabulary], if it has one.
        softcap: Logits are `softcap * tanh(logits / softcap)` (Gemma 2), or None.
        layers: Number of decoder layers.
        window: Sliding attention window in tokens, or None.
        mask_kinds: Kinds of mask the decoder wants in a dict, or empty for one mask.
        additive_masks: Whether masks are added to the scores (eager) rather than boolean.
        takes_blocks: Whether its attention takes `tree_blocks` in place of a mask.
    """

    decoder: nn.Module
    head: Tensor
    bias: Tensor | None
    softcap: float | None
    layers: int
    window: int | None
    mask_kinds: tuple[str, ...]
    additive_masks: bool
    takes_blocks: bool

    def hidden_states(
        self, tokens: Tensor, positions: Tensor | None, layer: int, **attention: Any
    ) -> tuple[Tensor, Tensor]:
        """Runs the decoder once on one sequence or tree.

        Args:
            tokens: Token ids [n].
            positions: Rotary positions [n]; None counts from 0.
            layer: Which hidden state to return beside the last: -1, or 0 (embedding) to layers.
            **attention: `attention_mask` or `tree_blocks`; neither is plain causal attention.

        Returns:
            The last hidden state [n, width], and the one of `layer` [n, width].
        """
        output = self.decoder(
            input_ids=tokens[None],
            position_ids=None if positions is None else positions[None],
            use_cache=False,
            output_hidden_states=layer != -1,
            **attention,
        )
        last = output.last_hidden_state[0]
        return last, last if layer == -1 else output.hidden_states[layer][0]


def find_trunk(model: nn.Module) -> Trunk:
    """Takes a (peft-wrapped) model apart and proves that the parts make the whole.

    Raises:
        ModelError: If decoder and head alone do not give the model's own logits.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(base, PreTrainedModel):
        raise ModelError(f"{type(base).__name__}: not a transformers causal language model")
    head = base.get_output_embeddings()
    if head is None or head.weight.requires_grad:
        raise ModelError(f"{type(base).__name__}: needs a frozen output head to train against")
    config = base.config.get_text_config()
    layer_types = getattr(config, "layer_types", None) or ()
    trunk = Trunk(
        decoder=base.get_decoder(),
        head=head.weight,
        bias=getattr(head, "bias", None),
        softcap=getattr(config, "final_logit_softcapping", None),
        layers=config.num_hidden_layers,
        window=_window(config, layer_types),
        mask_kinds=tuple(sorted(set(layer_types))),
        additive_masks=config._attn_implementation == "eager",
        takes_blocks=config._attn_implementation == TREE_ATTENTION,
    )
    _prove(base, trunk)
    return trunk


def check_layer(trunk: Trunk, layer: int) -> None:
    """Refuses a `loss.layer` that the model does not have.

    Raises:
        ConfigError: With the range allowed.
    """
    if not -1 <= layer <= trunk.layers:
        raise ConfigError(f"loss.layer = {layer}: this model has layers 0 to {trunk.layers}, or -1")


def _window(config: Any, layer_types: Any) -> int | None:
    window = getattr(config, "sliding_window", None)
    if window is None or not getattr(config, "use_sliding_window", True):
        return None
    if layer_types and SLIDING_MASK not in layer_types:
        return None
    return int(window)


def _prove(base: PreTrainedModel, trunk: Trunk) -> None:
    tokens = torch.arange(3, 11, device=trunk.head.device) % len(trunk.head)
    training = base.training
    base.eval()
    with torch.no_grad():
        try:
            whole = base(input_ids=tokens[None], use_cache=False).logits[0].float()
        except ValueError as error:
            raise ModelError(
                f"{type(base).__name__}: {error} (try `--set model.attention=eager`)"
            ) from error
        last, _ = trunk.hidden_states(tokens, None, -1)
        parts = logits(last.to(trunk.head.dtype), trunk.head, trunk.bias, trunk.softcap).float()
    base.train(training)
    if not torch.allclose(whole, parts, rtol=1e-2, atol=1e-2 * whole.abs().max().item()):
        raise ModelError(
            f"{type(base).__name__}: its logits are not head(decoder(x)); this architecture "
            "post-processes them in a way that is not supported"
        )


def logits(hidden: Tensor, head: Tensor, bias: Tensor | None, softcap: float | None) -> Tensor:
    """Applies the output head to hidden states [n, width], giving [n, vocabulary]."""
    raw = nn.functional.linear(hidden, head, bias)
    return raw if softcap is None else softcap * torch.tanh(raw / softcap)
