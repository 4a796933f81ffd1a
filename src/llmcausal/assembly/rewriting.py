"""Counterfactuals by a model: it says each document in other words."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from llmcausal.assembly.prepare import load_template
from llmcausal.config import RunConfig
from llmcausal.data.sources.builder import BuildOptions
from llmcausal.data.sources.example import LeftOut, SourceExample, Unusable
from llmcausal.data.sources.rewriting import INSTRUCTION, checked_rewriting
from llmcausal.errors import DataError
from llmcausal.evaluation.generation import Answering, answer_prompts
from llmcausal.model.factory import load_model
from llmcausal.ui.status import status

SPARE = 1.5
"""Examples that are rewritten for each triplet asked for: not every rewriting is sound."""
ROOM = 1.5
"""Tokens that a rewriting may take for each of its original."""

Progress = Callable[[int, int], None]


def rewritten_examples(
    config: RunConfig,
    examples: Sequence[SourceExample],
    options: BuildOptions,
    left_out: LeftOut,
    progress: Progress | None = None,
) -> dict[str, str]:
    """Returns the rewritten document of each example that has a sound one, by its id.

    Greedy, so that the same weights on the same machine give the same texts.

    Args:
        config: Whose model rewrites; also `data.max_length` and `evaluation.batch_size`.
        examples: Of which as many are taken as `options.count` may need.
        options: Count and seed.
        left_out: Told of each rewriting that is not sound, and of documents that are too long.
        progress: Told (done, total).

    Raises:
        DataError: If none is sound.
        ModelError: If the model cannot be loaded.
    """
    chosen = _choose(examples, options)
    with status("Loading the model"):
        loaded = load_model(config.model, config.memory)
    template = load_template(config.model, loaded.tokenizer)
    fitting = []
    for example in chosen:
        if len(template.encode_prompt(INSTRUCTION, example.document)) > config.data.max_length:
            left_out.add(example.where, "document: too long to rewrite; raise data.max_length")
        else:
            fitting.append(example)
    longest = max((template.count_tokens(example.document) for example in fitting), default=0)
    tokens = math.ceil(ROOM * longest) + 1
    answers = answer_prompts(
        Answering(loaded.model, template, tokens, config.evaluation.batch_size),
        [(INSTRUCTION, example.document) for example in fitting],
        progress=progress,
    )
    found = {}
    for example, answer in zip(fitting, answers, strict=True):
        try:
            found[example.id] = checked_rewriting(example, answer.text, ended=answer.stopped)
        except Unusable as error:
            left_out.add(example.where, str(error))
    if not found:
        raise DataError(left_out.first, f"{config.model.name}: none of its rewritings is sound")
    return found


def _choose(examples: Sequence[SourceExample], options: BuildOptions) -> list[SourceExample]:
    if options.count is None or SPARE * options.count >= len(examples):
        return list(examples)
    order = random.Random(f"llmcausal:rewrite:{options.seed}")
    return order.sample(list(examples), math.ceil(SPARE * options.count))
