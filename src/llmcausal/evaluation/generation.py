"""Greedy answers in batches: exact, in the caller's order, leaving the model as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig

from llmcausal.errors import ModelError, UsageError

if TYPE_CHECKING:
    from llmcausal.data.template import ChatTemplate

Progress = Callable[[int, int], None]
"""Called with (prompts done, prompts in all) after each batch."""


@dataclass(frozen=True)
class Answer:
    """One generated answer.

    Attributes:
        text: The answer without its end-of-turn token and any other control token.
        stopped: Whether the model ended its turn; otherwise `max_new_tokens` cut it off.
    """

    text: str
    stopped: bool


def base_model_of(model: Any) -> Any:
    """Returns the transformers model inside a `PeftModel` (its LoRA layers stay in place)."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def without_adapter(model: Any) -> Iterator[None]:
    """Switches the adapter off; afterwards every parameter is as trainable as before.

    Raises:
        UsageError: If the model has no adapter.
    """
    if not hasattr(model, "disable_adapter"):
        raise UsageError("the model has no adapter to switch off, so it has no baseline of its own")
    # Switching an adapter back on makes it trainable, even one that was loaded frozen.
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        with model.disable_adapter():
            yield
    finally:
        for parameter, required in trainable:
            parameter.requires_grad_(required)


@contextmanager
def ready_to_generate(model: Any, config: GenerationConfig) -> Iterator[None]:
    """Evaluation mode under `config` alone; restores all it changes.

    Evaluation mode also rests gradient checkpointing, which would forbid the key-value cache.
    """
    base = base_model_of(model)
    training = [(module, module.training) for module in model.modules()]
    # In evaluation mode on a CPU with AVX512-BF16, bitsandbytes repacks 4-bit weights for good,
    # and the packed product has no backward: training on would lose gradients without a word.
    packing = [
        (module, module.support_avx512bf16_for_cpu)
        for module in base.modules()
        if hasattr(module, "support_avx512bf16_for_cpu")
    ]
    previous = base.generation_config
    try:
        model.eval()
        for module, _ in packing:
            module.support_avx512bf16_for_cpu = False
        # `generate` fills whatever we leave unset from the model's own generation_config.
        base.generation_config = config
        yield
    finally:
        base.generation_config = previous
        for module, supported in packing:
            module.support_avx512bf16_for_cpu = supported
        for module, was_training in training:
            module.training = was_training


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: Sequence[int],
    max_new_tokens: int,
    batch_size: int,
    progress: Progress | None = None,
) -> list[list[int]]:
    """Continues each prompt greedily until a stop token or `max_new_tokens`.

    Args:
        model: A transformers model, or a `PeftModel` around one.
        prompts: Token ids, of any lengths above 0.
        stop_ids: Tokens that end an answer; at least one.
        max_new_tokens: Longest answer, in tokens.
        batch_size: Prompts generated together.
        progress: Told after each batch.

    Returns:
        The new tokens of each prompt in the order of `prompts`, the stop token included.

    Raises:
        ModelError: If no token ends an answer.
    """
    if not stop_ids:
        raise ModelError("neither the chat template nor the tokenizer names an end-of-turn token")
    if not all(prompts):
        raise ValueError("a prompt has no tokens")
    # Padding is masked by position, so any valid id serves.
    pad_id = stop_ids[0]
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(stop_ids),
        pad_token_id=pad_id,
        use_cache=True,
    )
    # Longest first: memory runs out at once or not at all, and little is padded.
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]), reverse=True)
    answers: list[list[int]] = [[] for _ in prompts]
    done = 0
    with ready_to_generate(model, config), torch.inference_mode():
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            rows = _generate_batch(model, [prompts[i] for i in batch], config, pad_id)
            for index, row in zip(batch, rows, strict=True):
                answers[index] = _until_stop(row, stop_ids)
            done += len(batch)
            if progress:
                progress(done, len(prompts))
    return answers


def _generate_batch(
    model: Any, prompts: Sequence[Sequence[int]], config: GenerationConfig, pad_id: int
) -> list[list[int]]:
    base = base_model_of(model)
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    output = base.generate(
        input_ids=ids.to(base.device),
        attention_mask=mask.to(base.device),
        generation_config=config,
    )
    rows: list[list[int]] = output[:, width:].tolist()
    return rows


def _until_stop(tokens: list[int], stop_ids: Sequence[int]) -> list[int]:
    stop = next((i for i, token in enumerate(tokens) if token in stop_ids), None)
    return tokens if stop is None else tokens[: stop + 1]


def answer_prompts(
    model: Any,
    template: ChatTemplate,
    prompts: Sequence[tuple[str, str]],
    *,
    max_new_tokens: int,
    batch_size: int,
    adapter: bool = True,
    progress: Progress | None = None,
) -> list[Answer]:
    """Answers (system, user) pairs greedily, with the adapter or without it.

    Raises:
        UsageError: If `adapter` is false and the model has none.
    """
    encoded = [template.encode_prompt(system, user) for system, user in prompts]
    with nullcontext() if adapter else without_adapter(model):
        rows = generate(
            model,
            encoded,
            stop_ids=template.stop_ids,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            progress=progress,
        )
    stop_ids = set(template.stop_ids)
    texts = template.tokenizer.batch_decode(
        rows, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return [
        Answer(text.strip(), bool(row) and row[-1] in stop_ids)
        for text, row in zip(texts, rows, strict=True)
    ]
