"""One prompt at a time, its answer token by token: what a server gives out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llmcausal.evaluation.generation import (
    base_model_of,
    decoding_config,
    padded,
    ready_to_decode,
)

Stream = Callable[[Sequence[int], int], Iterator[int]]
"""Takes a prompt and the longest answer in tokens; yields the new tokens, a stop token included."""


@contextmanager
def streaming(model: Any, stop_ids: Sequence[int], longest: int) -> Iterator[Stream]:
    """Makes the model ready to answer greedily, in this thread; restores all it changes.

    An answer is that of `generation.generate` with a batch size of 1. A model that only
    transformers can generate from gives its tokens all at once.

    Args:
        model: A transformers model, or a `PeftModel` around one.
        stop_ids: Tokens that end an answer.
        longest: Tokens of the longest prompt with its answer.
    """
    base = base_model_of(model)
    with ready_to_decode(model, longest) as tree:

        def stream(prompt: Sequence[int], max_new_tokens: int) -> Iterator[int]:
            if tree is not None:
                return tree.stream(prompt, stop_ids, max_new_tokens)
            return iter(padded(base, decoding_config(stop_ids, max_new_tokens), [tuple(prompt)])[0])

        yield stream
