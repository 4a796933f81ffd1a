"""Answers in batches: exact, in the caller's order, leaving the model as it was."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig

from llmcausal.errors import ModelError, UsageError
from llmcausal.evaluation.answer_store import AnswerStore, Shelf, answer_key
from llmcausal.evaluation.decoding import Sampling, TreeDecoder, blockwise_attention, greedy
from llmcausal.model.cpu_layers import whole_layers
from llmcausal.model.placement import compute_device
from llmcausal.train.processes import SINGLE, Processes
from llmcausal.train.recovery import is_out_of_memory

if TYPE_CHECKING:
    from llmcausal.data.template import ChatTemplate

Progress = Callable[[int, int], None]
"""Called with (prompts done, prompts in all) after each batch."""

Prompt = tuple[int, ...]
Decoder = Callable[[Sequence[Prompt]], list[list[int]]]
"""Returns the new tokens of each prompt of a batch, a stop token included."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """One generated answer.

    Attributes:
        text: The answer without its end-of-turn token and any other control token.
        stopped: Whether the model ended its turn; otherwise `max_new_tokens` cut it off.
    """

    text: str
    stopped: bool


@dataclass(frozen=True)
class Decoding:
    """How prompts are continued: greedily, within limits.

    Attributes:
        stop_ids: Tokens that end an answer; at least one.
        max_new_tokens: Longest answer, in tokens.
        batch_size: Prompts generated together.
    """

    stop_ids: Sequence[int]
    max_new_tokens: int
    batch_size: int


@dataclass(frozen=True)
class Answering:
    """What answers prompts: a model and its template, the limits, the cache, the processes.

    Attributes:
        model: A transformers model, or a `PeftModel` around one.
        template: Renders prompts and knows the end-of-turn tokens.
        max_new_tokens: Longest answer, in tokens.
        batch_size: Prompts generated together.
        store: Keeps answers, and gives those that it has.
        processes: Those that share the prompts.
    """

    model: Any
    template: ChatTemplate
    max_new_tokens: int
    batch_size: int
    store: AnswerStore | None = None
    processes: Processes = SINGLE

    @property
    def decoding(self) -> Decoding:
        """How prompts are continued."""
        return Decoding(self.template.stop_ids, self.max_new_tokens, self.batch_size)


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
def evaluation_mode(model: Any) -> Iterator[None]:
    """Evaluation mode, without what bitsandbytes does for good in it; restores all it changes.

    It also rests gradient checkpointing, which would forbid the key-value cache.
    """
    training = [(module, module.training) for module in model.modules()]
    # In evaluation mode on a CPU with AVX512-BF16, bitsandbytes repacks 4-bit weights for good,
    # and the packed product has no backward: training on would lose gradients without a word.
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
def ready_to_generate(model: Any, config: GenerationConfig) -> Iterator[None]:
    """Evaluation mode under `config` alone; restores all it changes."""
    base = base_model_of(model)
    previous = base.generation_config
    with evaluation_mode(model):
        try:
            # `generate` fills whatever we leave unset from the model's own generation_config.
            base.generation_config = config
            yield
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
    """Continues each prompt greedily until a stop token or the longest answer.

    Batches follow from the prompts alone, not from what `shelf` holds of them, so that an
    interrupted run goes on with the very sums that it would have made. Out of GPU memory, the
    batch is halved, and all after it, unless processes compute together.

    Args:
        model: A transformers model, or a `PeftModel` around one.
        prompts: Token ids, of any lengths above 0.
        decoding: Stop tokens, longest answer, batch size.
        progress: Told at once of what `shelf` holds, then after each batch.
        shelf: Answers that these weights gave already; those given now are added. Of several
            processes the first's counts.
        processes: Those that share the batches, or all give all together; all get all answers.

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
    mine, givers = _dealt(_missing(_batches(list(copies), decoding.batch_size), answers), processes)

    def keep(found: Mapping[Prompt, list[int]]) -> None:
        nonlocal done
        if shelf is not None:
            shelf.add({keys[prompt]: row for prompt, row in found.items()})
        done += sum(copies[prompt] for prompt in found) * givers
        if progress:
            progress(min(done, total), total)

    work_on = partial(_answered, model, mine, decoding, keep, halving=not processes.sharded)
    for given in processes.forward_all(work_on):
        answers.update(given)
    return [list(answers[tuple(prompt)]) for prompt in prompts]


def _missing(
    batches: Sequence[list[Prompt]], answers: Mapping[Prompt, list[int]]
) -> list[list[Prompt]]:
    left = [[prompt for prompt in batch if prompt not in answers] for batch in batches]
    return list(filter(None, left))


def _dealt(batches: list[list[Prompt]], processes: Processes) -> tuple[list[list[Prompt]], int]:
    """Returns what this process answers, and how many answer beside it at the same time."""
    if processes.sharded:  # in as many passes each, so each answers all, for they differ in length
        return batches, 1
    return processes.shard(batches), processes.world_size


def _answered(
    model: Any,
    batches: Sequence[list[Prompt]],
    decoding: Decoding,
    keep: Callable[[Mapping[Prompt, list[int]]], None],
    *,
    halving: bool,
) -> dict[Prompt, list[int]]:
    """Returns the new tokens of each prompt; `keep` is told those of each batch at once."""
    answers: dict[Prompt, list[int]] = {}
    if batches:
        with decoder_of(model, batches, decoding) as decode:
            for batch, rows in decode_batches(decode, batches, halving):
                found = dict(zip(batch, rows, strict=True))
                answers.update(found)
                keep(found)
    return answers


def _stored(shelf: Shelf | None, keys: Mapping[Prompt, str]) -> dict[Prompt, list[int]]:
    found = {prompt: shelf.get(key) for prompt, key in keys.items()} if shelf else {}
    return {prompt: tokens for prompt, tokens in found.items() if tokens is not None}


def _batches(prompts: Sequence[Prompt], batch_size: int) -> list[list[Prompt]]:
    """Puts prompts with a common beginning together, and the longest batch first.

    Memory then runs out at once or not at all.
    """
    order = sorted(prompts)
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return sorted(batches, key=lambda batch: max(map(len, batch)), reverse=True)


@contextmanager
def decoder_of(
    model: Any,
    batches: Sequence[Sequence[Prompt]],
    decoding: Decoding,
    sampling: Sampling | None = None,
) -> Iterator[Decoder]:
    """Makes the model ready; what it yields answers a batch, greedily unless it is to sample."""
    stop_ids, max_new_tokens = decoding.stop_ids, decoding.max_new_tokens
    longest = max(len(prompt) for batch in batches for prompt in batch) + max_new_tokens
    with ready_to_decode(model, longest) as tree:
        if tree is None:
            config = decoding_config(stop_ids, max_new_tokens, sampling)
            with nullcontext() if sampling is None else _drawing_from(sampling.seed):
                yield partial(padded, base_model_of(model), config)
        else:
            choose = greedy if sampling is None else sampling.choice()
            yield partial(tree, stop_ids=stop_ids, max_new_tokens=max_new_tokens, choose=choose)


def decoding_config(
    stop_ids: Sequence[int], max_new_tokens: int, sampling: Sampling | None = None
) -> GenerationConfig:
    """Returns the settings of transformers' own `generate`, greedy unless it is to sample."""
    drawn: dict[str, Any] = {}
    if sampling is not None:
        drawn = {"temperature": sampling.temperature, "top_k": 0, "top_p": 1.0}
    return GenerationConfig(
        **drawn,
        do_sample=bool(drawn),
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(stop_ids),
        pad_token_id=stop_ids[0],  # padding is masked by position, so any valid id serves
        use_cache=True,
    )


@contextmanager
def ready_to_decode(model: Any, longest: int) -> Iterator[TreeDecoder | None]:
    """Makes the model ready to answer, in this thread; restores all it changes.

    Args:
        model: A transformers model, or a `PeftModel` around one.
        longest: Tokens of the longest prompt with its answer.

    Yields:
        The decoder; None for a model that only transformers can generate from.
    """
    base = base_model_of(model)
    with (
        ready_to_generate(model, GenerationConfig()),
        blockwise_attention(base),
        whole_layers(model),
        torch.inference_mode(),
    ):
        try:
            tree = TreeDecoder(base, longest)
        except ModelError as error:
            name = type(base).__name__
            _log.warning("%s: %s; generating from padded batches, which is slower", name, error)
            yield None
        else:
            yield tree


@contextmanager
def _drawing_from(seed: int) -> Iterator[None]:
    """Lets transformers draw from a seed; leaves torch's own generators as they were."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def decode_batches(
    decode: Decoder, batches: Sequence[list[Prompt]], halving: bool
) -> Iterator[tuple[list[Prompt], list[list[int]]]]:
    """Yields each batch with its answers; parts of batches once memory has run out."""
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


def padded(base: Any, config: GenerationConfig, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Lets transformers generate, for models that `TreeDecoder` does not take."""
    stop_ids = config.eos_token_id
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), config.pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    device = compute_device(base)
    output = base.generate(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        generation_config=config,
    )
    rows: list[list[int]] = output[:, width:].tolist()
    return [_until_stop(row, stop_ids) for row in rows]


def _until_stop(tokens: list[int], stop_ids: Sequence[int]) -> list[int]:
    stop = next((i for i, token in enumerate(tokens) if token in stop_ids), None)
    return tokens if stop is None else tokens[: stop + 1]


def answer_prompts(
    answering: Answering,
    prompts: Sequence[tuple[str, str]],
    *,
    adapter: bool = True,
    progress: Progress | None = None,
) -> list[Answer]:
    """Answers (system, user) pairs greedily, with the adapter or without it.

    Raises:
        UsageError: If `adapter` is false and the model has none.
    """
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
    return [
        _answer(template, text, row)
        for text, row in zip(texts_of(template, rows), rows, strict=True)
    ]


def texts_of(template: ChatTemplate, rows: Sequence[Sequence[int]]) -> list[str]:
    """Returns answers as text, without control tokens."""
    texts = template.tokenizer.batch_decode(
        [*map(list, rows)], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return [text.strip() for text in texts]


def read_answer(template: ChatTemplate, tokens: Sequence[int]) -> Answer:
    """Returns an answer's new tokens as text."""
    return _answer(template, texts_of(template, [tokens])[0], tokens)


def _answer(template: ChatTemplate, text: str, tokens: Sequence[int]) -> Answer:
    return Answer(text, bool(tokens) and tokens[-1] in template.stop_ids)
