"""Texts that the model writes for the data: its own answers, and documents in other words.

The right answer under attack is the model's answer without the attack, so nobody has to write it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llmcausal.config import RunConfig
from llmcausal.data.sources.builder import BuildOptions
from llmcausal.data.sources.counterfactual import INSTRUCTION, checked_rewriting
from llmcausal.data.sources.example import LeftOut, SourceExample, Unusable
from llmcausal.data.template import ChatTemplate
from llmcausal.data.triplet import Triplet
from llmcausal.errors import ConfigError, DataError
from llmcausal.evaluation.answer_store import AnswerStore
from llmcausal.evaluation.generation import Answer, Answering, Progress, PromptPair, answer_prompts
from llmcausal.evaluation.scoring import obeyed
from llmcausal.memory.budget import enforce, find_budget
from llmcausal.memory.runs import memory_to_answer
from llmcausal.model.device import choose_device
from llmcausal.model.factory import LoadedModel, load_model
from llmcausal.train.recovery import release
from llmcausal.ui.console import status

ALONE = "You are a helpful assistant."
"""System prompt under which an attack's instruction is answered on its own."""
SPARE = 1.5
"""Rewritings per requested triplet: some are not sound."""
ROOM = 1.5
"""Tokens that a rewriting may take per token of its original."""


def answered(
    config: RunConfig,
    triplets: Sequence[Triplet],
    template: ChatTemplate,
    *,
    swapped: bool,
    progress: Progress | None = None,
) -> tuple[list[Triplet | None], list[str]]:
    """Fills in missing answers with the untouched model's greedy answers.

    An attack's instruction with a witness is answered on its own. The answer is kept if it obeys;
    otherwise the witness replaces it. An instruction without a witness is answered as the trusted
    instruction. The user's cache keeps the answers.

    Args:
        swapped: Also fill in `response_obeying`.

    Returns:
        The triplets in their places, with None where the answer is useless: empty, too long, or
        obeying an attack that the model has not seen; and notes on their numbers.
    """
    prompts = list(dict.fromkeys(p for triplet in triplets for p in _asked(triplet, swapped)))
    if not prompts:
        return list(triplets), []
    if config.memory.shards > 1:
        raise ConfigError(
            "data.answers = 'model' with memory.shards: no process holds the whole model; make "
            "the answers first, with `llmcausal data build --answers model`"
        )
    limit = config.data.max_length - config.data.answer_tokens
    fitting = [prompt for prompt in prompts if len(template.encode_prompt(*prompt)) <= limit]
    answers = _answers(config, template, fitting, progress)
    made = [_filled(triplet, answers, swapped) for triplet in triplets]
    left_out = made.count(None)
    notes = [f"answers: {len(fitting)} by the model itself"]
    if left_out:
        notes.append(
            f"answers: {left_out} triplets left out: the model's answer is empty, too long to make "
            "within data.max_length, or does what the attack asks without having seen it"
        )
    return made, notes


def rewritten_examples(
    config: RunConfig,
    template: ChatTemplate,
    examples: Sequence[SourceExample],
    options: BuildOptions,
    left_out: LeftOut,
    progress: Progress | None = None,
) -> dict[str, str]:
    """Returns sound rewritings of the examples' documents, by the example's id.

    Decoding is greedy, so the same weights on the same machine give the same texts. `left_out`
    receives unsound rewritings and documents that are too long.

    Raises:
        DataError: If none is sound.
    """
    if options.count is not None and SPARE * options.count < len(examples):
        order = random.Random(f"llmcausal:rewrite:{options.seed}")
        examples = order.sample(list(examples), math.ceil(SPARE * options.count))
    with status("Loading the model"):
        loaded = load_model(config.model, config.memory)
    fitting = []
    for example in examples:
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


def _answers(
    config: RunConfig, template: ChatTemplate, prompts: list[PromptPair], progress: Progress | None
) -> dict[PromptPair, Answer]:
    """Loads the model, answers, and frees the model: the later run needs the memory."""
    with status("Loading the model"):
        loaded = _load(config)
    answering = Answering(
        loaded.model,
        template,
        config.data.answer_tokens,
        config.evaluation.batch_size,
        store=AnswerStore() if config.evaluation.cache else None,
    )
    found = answer_prompts(answering, prompts, progress=progress)
    device = loaded.device
    del loaded, answering
    release([device])
    return dict(zip(prompts, found, strict=True))


def _load(config: RunConfig) -> LoadedModel:
    memory = config.memory
    if choose_device(config.model.device).type == "cuda":
        # The planner has not run yet: it needs the lengths of these answers.
        budget = find_budget(memory, "cuda")
        if not memory.force:
            enforce(budget)
        memory = memory_to_answer(config, budget)
    return load_model(config.model, memory)


def stand_ins(triplets: Sequence[Triplet], tokens: int) -> list[Triplet | None]:
    """Fills in meaningless answers of the maximum length, where only lengths count."""
    text = "a " * tokens
    return [
        replace(
            triplet,
            response=triplet.response or text,
            response_obeying=triplet.response_obeying or (text if triplet.swapped_system else None),
        )
        for triplet in triplets
    ]


def _obeying_prompt(triplet: Triplet) -> PromptPair | None:
    attack = triplet.attack
    if attack is None or triplet.response_obeying is not None or not triplet.swapped_system:
        return None
    if attack.witness or attack.check:
        return ALONE, attack.goal
    return triplet.prompt("obeying")


def _asked(triplet: Triplet, swapped: bool) -> list[PromptPair]:
    asked = [] if triplet.response else [triplet.prompt("benign")]
    obeying = _obeying_prompt(triplet) if swapped else None
    return asked if obeying is None else [*asked, obeying]


def _filled(triplet: Triplet, answers: dict[PromptPair, Answer], swapped: bool) -> Triplet | None:
    if not triplet.response:
        answer = answers.get(triplet.prompt("benign"))
        if answer is None or not _is_text(answer) or obeyed(triplet, answer.text):
            return None
        triplet = _with(triplet, "response", answer)
    prompt = _obeying_prompt(triplet) if swapped else None
    if prompt is None:
        return triplet
    answer, attack = answers.get(prompt), triplet.attack
    if answer is not None and _is_text(answer) and obeyed(triplet, answer.text) is not False:
        return _with(triplet, "response_obeying", answer)
    return replace(triplet, response_obeying=attack.witness or None) if attack else triplet


def _is_text(answer: Answer) -> bool:
    """A model may write NUL, which a triplet's texts cannot contain."""
    return bool(answer.text) and "\0" not in answer.text


def _with(triplet: Triplet, field: str, answer: Answer) -> Triplet:
    unfinished = triplet.unfinished if answer.stopped else (*triplet.unfinished, field)
    changes: dict[str, Any] = {field: answer.text, "unfinished": unfinished}
    return replace(triplet, **changes)
