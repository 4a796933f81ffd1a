"""Several answers to each prompt, drawn from a seed."""

from __future__ import annotations

from collections.abc import Sequence

from llmcausal.evaluation.decoding import Sampling
from llmcausal.evaluation.generation import Answering, decode_batches, decoder_of, texts_of


def sample_prompts(
    answering: Answering, prompts: Sequence[tuple[str, str]], sampling: Sampling
) -> list[list[str]]:
    """Draws several answers to each (system, user) pair; the same seed draws the same.

    Args:
        answering: The model, with its adapter or without, as it is; its cache is not used.
        prompts: The pairs.
        sampling: How many answers, and how to draw them.

    Returns:
        The answers to each prompt.
    """
    if not sampling.count or not prompts:
        return [[] for _ in prompts]
    template, decoding, count = answering.template, answering.decoding, sampling.count
    encoded = [tuple(template.encode_prompt(system, user)) for system, user in prompts]
    copies = [prompt for prompt in encoded for _ in range(count)]
    size = decoding.batch_size
    batches = [copies[start : start + size] for start in range(0, len(copies), size)]
    rows: list[list[int]] = []
    with decoder_of(answering.model, batches, decoding, sampling) as decode:
        for _, found in decode_batches(decode, batches, halving=True):
            rows += found
    texts = texts_of(template, rows)
    return [texts[start : start + count] for start in range(0, len(texts), count)]
