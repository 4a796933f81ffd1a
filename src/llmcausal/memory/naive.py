"""The usual recipe, for comparison: how it is written with transformers and peft alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy

from llmcausal.train.batch import Span, TripletBatch


class NaiveStep:
    """Three full forward passes with logits at every position, and one backward pass.

    The model is as peft's k-bit preparation leaves it: what is not quantized is fp32, and layers
    are recomputed if others are. Benchmarks run the same for real (`benchmarks/memory.py`).

    Args:
        model: A `PeftModel`.
        objective: Its projection head is used.
        dtype: Compute dtype, for autocast.
    """

    def __init__(self, model: Any, objective: Any, dtype: torch.dtype) -> None:
        self.model = model
        self.objective = objective
        self.dtype = dtype
        if getattr(model.get_base_model(), "is_loaded_in_4bit", False):
            model.get_base_model().activation_checkpointing_enable({"use_reentrant": False})

    def __call__(
        self, batch: TripletBatch, totals: Mapping[str, int], backward: Callable[[Tensor], None]
    ) -> None:
        """Runs the batch's triplets, one after another."""
        device = batch.tokens.device.type
        for row in range(len(batch)):
            spans = [span for span in batch.spans if span.triplet == row]
            with torch.autocast(device, self.dtype, enabled=self.dtype != torch.float32):
                passes = [self._member(span) for span in spans]
                losses = [loss for loss, _ in passes if loss is not None]
                rows = [pooled for _, pooled in passes]
                losses += [cosine_similarity(rows[0], other, dim=-1) for other in rows[1:]]
            backward(torch.stack(losses).sum())

    def label_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Returns the cross-entropy of one member."""
        return cross_entropy(logits, labels)

    def _member(self, span: Span) -> tuple[Tensor | None, Tensor]:
        ids = span.tokens[None]
        output = self.model(input_ids=ids, output_hidden_states=True)
        loss = None
        if span.term:
            logits = output.logits[:, :-1].flatten(0, 1)
            loss = self.label_losses(logits, ids.clone()[:, 1:].flatten())
        pooled = output.hidden_states[-1][0, : span.prompt_length].mean(0)
        projection = self.objective.projection
        return loss, pooled if projection is None else projection(pooled)
