"""Answers to prompts: greedy, drawn or streamed. The model stays as it was."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import GenerationConfig

from llmcausal.data.prefix_tree import batches_alike
from llmcausal.data.spans import Content
from llmcausal.data.template import ChatTemplate
from llmcausal.errors import ModelError, UsageError
from llmcausal.evaluation.answer_store import AnswerStore, Shelf, answer_key
from llmcausal.evaluation.decoding import Sampling, TreeDecoder, blockwise_attention, greedy
from llmcausal.model.cpu_layers import whole_layers
from llmcausal.model.placement import compute_device
from llmcausal.train.processes import SINGLE, Processes
from llmcausal.train.recovery import is_out_of_memory

Progress = Callable[[int, int], None]
"""Called with (prompts done, prompts in all) after each batch."""

PromptPair = tuple[str, Content]
"""The system prompt, which is trusted, and what follows it."""
Prompt = tuple[int, ...]
Decoder = Callable[[Sequence[Prompt]], list[list[int]]]
"""Returns the new tokens of each prompt of a batch, a stop token included."""
Stream = Callable[[Sequence[int], int], Iterator[int]]
"""Takes a prompt and the maximum of new tokens; yields the new tokens, a stop token included."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """A generated answer without control tokens.

    Either the model ended its turn (`stopped`), or the length limit cut the answer off.
    """

    text: str
    stopped: bool


@dataclass(frozen=True)
class Decoding:
    """How to decode: the tokens that end an answer (at least one), its maximum of new tokens."""

    stop_ids: Sequence[int]
    max_new_tokens: int
    batch_size: int


@dataclass(frozen=True)
class Answering:
    """A model, perhaps a `PeftModel`, that answers prompts; `processes` share the prompts."""

    model: Any
    template: ChatTemplate
    max_new_tokens: int
    batch_size: int
    store: AnswerStore | None = None
    processes: Processes = SINGLE

    @property
    def decoding(self) -> Decoding:
        return Decoding(self.template.stop_ids, self.max_new_tokens, self.batch_size)


def base_model_of(model: Any) -> Any:
    """Returns the transformers model inside a `PeftModel` (its LoRA layers stay in place)."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def without_adapter(model: Any) -> Iterator[None]:
    """Switches the adapter off inside the block; raises a UsageError if there is none."""
    if not hasattr(model, "disable_adapter"):
        raise UsageError("the model has no adapter to switch off, so it has no baseline")
    # Switching an adapter back on makes it trainable, even one that was loaded frozen.
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        with model.disable_adapter():
            yield
    finally:
        for parameter, required in trainable:
            parameter.requires_grad_(required)


@contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
    """Sets evaluation mode inside the block, then restores all it changed.

    Gradient checkpointing, which would forbid the key-value cache, is off in this mode.
    """
    training = [(module, module.training) for module in model.modules()]
    # In evaluation mode on a CPU with AVX512-BF16, bitsandbytes repacks 4-bit weights permanently.
    # The packed product has no backward pass, so later training would silently lose gradients.
    packing = [
        (module, module.support_avx512bf16_for_cpu)
        for module in model.modules()
        if hasattr(module, "support_avx512bf16_for_cpu")
    ]
    try:
        model.eval()
        for module, _ in packing:
            module.support_avx512bf16_for_cpu = False
        yield
    finally:
        for module, supported in packing:
            module.support_avx512bf16_for_cpu = supported
        for module, was_training in training:
            module.training = was_training


@contextmanager
def _ready_to_decode(model: Any, longest: int) -> Iterator[TreeDecoder | None]:
    """Makes the model ready to answer in this thread, then restores all it changed.

    Yields a decoder for up to `longest` tokens; None for a model that only transformers can
    generate from.
    """
    base = base_model_of(model)
    previous = base.generation_config
    with (
        evaluation_mode(model),
        blockwise_attention(base),
        whole_layers(model, gradients=False),
        torch.inference_mode(),
    ):
        try:
            # `generate` fills whatever we leave unset from the model's own generation_config.
            base.generation_config = GenerationConfig()
            try:
                tree = TreeDecoder(base, longest)
            except ModelError as error:
                tree, name = None, type(base).__name__
                _log.warning("%s: %s; generating from padded batches, which is slower", name, error)
            yield tree
        finally:
            base.generation_config = previous


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    *,
    progress: Progress | None = None,
    shelf: Shelf | None = None,
    processes: Processes = SINGLE,
) -> list[list[int]]:
    """Continues each prompt greedily until a stop token or the maximum of new tokens.

    Batches depend on the prompts alone, not on the cached answers, so an interrupted run continues
    with the same sums. If GPU memory runs out, this batch and all later ones are halved, unless
    processes compute together. The first process's cached answers count; `progress` is called at
    once with them, then after each batch.

    Returns:
        The new tokens of each prompt in the order of `prompts`, the stop token included.

    Raises:
        ModelError: If no token ends an answer.
    """
    if not decoding.stop_ids:
        raise ModelError("neither the chat template nor the tokenizer names an end-of-turn token")
    if not all(prompts):
        raise ValueError("a prompt has no tokens")
    copies, total = Counter(map(tuple, prompts)), len(prompts)
    keys = {p: answer_key(p, decoding.stop_ids, decoding.max_new_tokens) for p in copies}
    answers = processes.on_main(partial(_stored, shelf, keys))
    done = sum(copies[prompt] for prompt in answers)
    if done and progress:
        progress(done, total)
    batches = batches_alike(copies, decoding.batch_size)
    # The longest batch comes first, so memory runs out at once or not at all.
    batches.sort(key=lambda batch: max(map(len, batch)), reverse=True)
    left = [[prompt for prompt in batch if prompt not in answers] for batch in batches]
    mine, givers = [batch for batch in left if batch], 1
    if not processes.sharded:  # sharded processes make the same passes: each answers all prompts
        mine, givers = processes.shard(mine), processes.world_size

    def work() -> dict[Prompt, list[int]]:
        nonlocal done
        found: dict[Prompt, list[int]] = {}
        if not mine:
            return found
        with _decoder_of(model, mine, decoding) as decode:
            for batch, rows in decode_batches(decode, mine, halving=not processes.sharded):
                found.update(zip(batch, rows, strict=True))
                if shelf is not None:
                    shelf.add({keys[prompt]: found[prompt] for prompt in batch})
                done += sum(copies[prompt] for prompt in batch) * givers
                if progress:
                    progress(min(done, total), total)
        return found

    for given in processes.forward_all(work):
        answers.update(given)
    return [list(answers[tuple(prompt)]) for prompt in prompts]


def _stored(shelf: Shelf | None, keys: Mapping[Prompt, str]) -> dict[Prompt, list[int]]:
    found = {prompt: shelf.get(key) for prompt, key in keys.items()} if shelf else {}
    return {prompt: tokens for prompt, tokens in found.items() if tokens is not None}


@contextmanager
def _decoder_of(
    model: Any,
    batches: Sequence[Sequence[Prompt]],
    decoding: Decoding,
    sampling: Sampling | None = None,
) -> Iterator[Decoder]:
    stop_ids, max_new_tokens = decoding.stop_ids, decoding.max_new_tokens
    longest = max(len(prompt) for batch in batches for prompt in batch) + max_new_tokens
    with _ready_to_decode(model, longest) as tree:
        if tree is not None:
            choose = greedy if sampling is None else sampling.choice()
            yield partial(tree, stop_ids=stop_ids, max_new_tokens=max_new_tokens, choose=choose)
            return
        config = _config_of(stop_ids, max_new_tokens, sampling)
        # transformers draws from torch's own generators, which stay as they were.
        with torch.random.fork_rng(range(torch.cuda.device_count()), enabled=sampling is not None):
            if sampling is not None:
                torch.manual_seed(sampling.seed)
            yield partial(_padded, base_model_of(model), config)


def _config_of(
    stop_ids: Sequence[int], max_new_tokens: int, sampling: Sampling | None = None
) -> GenerationConfig:
    """Returns the settings for transformers' own `generate`, greedy without `sampling`."""
    drawn: dict[str, Any] = {}
    if sampling is not None:
        drawn = {"temperature": sampling.temperature, "top_k": 0, "top_p": 1.0}
    return GenerationConfig(
        **drawn,
        do_sample=bool(drawn),
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(stop_ids),
        pad_token_id=stop_ids[0],  # padding is masked by position, so any valid id works
        use_cache=True,
    )


def decode_batches(
    decode: Decoder, batches: Sequence[list[Prompt]], halving: bool
) -> Iterator[tuple[list[Prompt], list[list[int]]]]:
    """Yields each batch with its answers; parts of batches after memory ran out."""
    pending = deque(batches)
    limit = max(map(len, batches))
    while pending:
        batch = pending.popleft()
        if len(batch) > limit:
            pending.extendleft((batch[limit:], batch[:limit]))
            continue
        try:
            rows = decode(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or len(batch) == 1 or not halving:
                raise
            limit = (len(batch) + 1) // 2
            _log.warning("out of memory: continuing with %d prompts at a time", limit)
            pending.appendleft(batch)
            continue
        yield batch, rows


def _padded(base: Any, config: GenerationConfig, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Lets transformers generate, for models that `TreeDecoder` refuses."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), config.pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    device = compute_device(base)
    inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
    output = base.generate(**inputs, generation_config=config)
    rows: list[list[int]] = output[:, width:].tolist()
    stop_ids = config.eos_token_id
    ends = [next((end for end, id_ in enumerate(row, 1) if id_ in stop_ids), None) for row in rows]
    return [row[:end] for row, end in zip(rows, ends, strict=True)]


def answer_prompts(
    answering: Answering,
    prompts: Sequence[PromptPair],
    *,
    adapter: bool = True,
    progress: Progress | None = None,
) -> list[Answer]:
    """Answers prompts greedily; raises a UsageError without an adapter to switch off."""
    model, template, store = answering.model, answering.template, answering.store
    encoded = [template.encode_prompt(system, user) for system, user in prompts]
    with nullcontext() if adapter else without_adapter(model):
        rows = generate(
            model,
            encoded,
            answering.decoding,
            progress=progress,
            shelf=store.shelf(model, adapter=adapter) if store else None,
            processes=answering.processes,
        )
    return read_answers(template, rows)


def read_answers(template: ChatTemplate, rows: Sequence[Sequence[int]]) -> list[Answer]:
    """Returns answers' new tokens as text, without control tokens."""
    texts = template.tokenizer.batch_decode(
        [*map(list, rows)], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return [
        Answer(text.strip(), bool(row) and row[-1] in template.stop_ids)
        for text, row in zip(texts, rows, strict=True)
    ]


def sample_prompts(
    answering: Answering, prompts: Sequence[PromptPair], sampling: Sampling
) -> list[list[str]]:
    """Draws several answers to each prompt; equal seeds draw equal answers.

    The model answers as it is, with its adapter or without; the cache is not used.
    """
    if not sampling.count or not prompts:
        return [[] for _ in prompts]
    template, decoding, count = answering.template, answering.decoding, sampling.count
    encoded = [tuple(template.encode_prompt(system, user)) for system, user in prompts]
    copies = [prompt for prompt in encoded for _ in range(count)]
    size = decoding.batch_size
    batches = [copies[start : start + size] for start in range(0, len(copies), size)]
    rows: list[list[int]] = []
    with _decoder_of(answering.model, batches, decoding, sampling) as decode:
        for _, found in decode_batches(decode, batches, halving=True):
            rows += found
    texts = [answer.text for answer in read_answers(template, rows)]
    return [texts[start : start + count] for start in range(0, len(texts), count)]


@contextmanager
def streaming(model: Any, stop_ids: Sequence[int], longest: int) -> Iterator[Stream]:
    """Makes the model ready to answer one prompt at a time in this thread.

    An answer equals `generate`'s with a batch size of 1. A model that only transformers can
    generate from gives its tokens all at once. `longest` counts the tokens of prompt and answer.
    """
    base = base_model_of(model)
    with _ready_to_decode(model, longest) as tree:

        def stream(prompt: Sequence[int], max_new_tokens: int) -> Iterator[int]:
            if tree is not None:
                for _, tokens in tree.steps([prompt], stop_ids, max_new_tokens):
                    yield from tokens
            else:
                config = _config_of(stop_ids, max_new_tokens)
                yield from _padded(base, config, [tuple(prompt)])[0]

        yield stream
