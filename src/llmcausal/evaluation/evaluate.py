"""Attack success and utility in generated text, tuned against base on the same prompts."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmcausal.data.triplet import Triplet
from llmcausal.errors import DataError
from llmcausal.evaluation.answer_rows import (
    MEMBERS_ANSWERED,
    AnsweredMember,
    Side,
    generation_rows,
)
from llmcausal.evaluation.generation import (
    Answer,
    Answering,
    Progress,
    answer_prompts,
    base_model_of,
)
from llmcausal.evaluation.scoring import asks_to_obey
from llmcausal.evaluation.summary import differences, judge, likeness_between, summarize, verdict_on

if TYPE_CHECKING:
    from llmcausal.data.template import ChatTemplate

PromptPair = tuple[str, str]
"""The trusted text and the untrusted one."""
Answers = Mapping[PromptPair, Answer]
Weights = Callable[[], AbstractContextManager[None]]
"""Puts other adapter weights into the model for a while."""


def evaluate(
    answering: Answering,
    triplets: Sequence[Triplet],
    *,
    baseline: bool = True,
    base_weights: Weights | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Answers and scores every triplet's benign and attacked prompt, and its obeying one if any.

    Args:
        answering: The tuned model and how it answers; a `PeftModel` where `baseline` is asked for.
        triplets: At least one.
        baseline: Also answer with a second model, and compare pair by pair.
        base_weights: Makes the second model; None switches the adapter off.
        progress: Called with (done, total) over all distinct prompts of both models.

    Returns:
        `base` (or None), `tuned`, `difference`, `verdict` and `likeness` (or None), `skipped` and
        `generations`, ready for JSON. Metrics are `{"value", "n", "low", "high"}`, differences as
        in `paired_difference`, the verdict as in `verdict_on`; `skipped` lists triplets that
        cannot be used, and why.

    Raises:
        DataError: If there is no triplet, or none that can be used, or a check takes too long.
        UsageError: If `baseline` is asked for and the model has no adapter.
    """
    answering = replace(answering, template=encoding_once(answering.template))
    usable, skipped = fitting(answering, triplets)
    distinct = prompts_of(usable)
    total = len(distinct) * (2 if baseline else 1)

    def answers(weights: Weights, adapter: bool, done_before: int) -> Answers:
        shown = _offset(progress, done_before, total)
        with weights():
            found = answer_prompts(answering, distinct, adapter=adapter, progress=shown)
        return dict(zip(distinct, found, strict=True))

    base = answers(base_weights or nullcontext, base_weights is not None, 0) if baseline else None
    tuned = answers(nullcontext, True, total - len(distinct))
    return score_answers(usable, skipped, tuned, base)


def prompts_of(triplets: Sequence[Triplet]) -> list[PromptPair]:
    """Returns the distinct prompts that are answered of triplets, triplet by triplet."""
    prompts = (_prompt(triplet, member) for triplet in triplets for member in MEMBERS_ANSWERED)
    return list(dict.fromkeys(prompt for prompt in prompts if prompt is not None))


def score_answers(
    usable: Sequence[Triplet],
    skipped: list[dict[str, str]],
    tuned: Answers,
    base: Answers | None,
) -> dict[str, Any]:
    """Scores answers, wherever they come from.

    Args:
        usable: At least one triplet.
        skipped: Those that are left out, each as `id` and `reason`.
        tuned: Answers to all of `prompts_of(usable)`.
        base: Those of what is compared with, if anything is.

    Returns:
        As `evaluate` does.

    Raises:
        DataError: If a check takes too long.
    """
    after = _judged(usable, tuned)
    return _result(usable, skipped, after, None if base is None else _judged(usable, base))


def _result(
    usable: Sequence[Triplet], skipped: list[dict[str, str]], tuned: Side, base: Side | None
) -> dict[str, Any]:
    difference = differences(usable, base.verdicts, tuned.verdicts) if base else None
    after = summarize(usable, tuned.verdicts)
    return {
        "base": summarize(usable, base.verdicts) if base else None,
        "tuned": after,
        "difference": difference,
        "verdict": verdict_on(after, difference),
        "likeness": _likeness(usable, tuned, base) if base else None,
        "skipped": skipped,
        "generations": generation_rows(usable, tuned, base),
    }


def _likeness(usable: Sequence[Triplet], tuned: Side, base: Side) -> dict[str, Any]:
    def clean(side: Side) -> dict[Any, str]:
        pairs = zip(usable, side.answers["benign"], strict=True)
        return {_prompt(triplet, "benign"): answer.text for triplet, answer in pairs if answer}

    return likeness_between(clean(tuned), clean(base))


def _prompt(triplet: Triplet, member: AnsweredMember) -> PromptPair | None:
    if member == "obeying" and not asks_to_obey(triplet):
        return None
    return triplet.system_text(member), triplet.user_text(member)


def _judged(triplets: Sequence[Triplet], by_prompt: Answers) -> Side:
    answers: dict[AnsweredMember, list[Answer | None]] = {}
    for member in MEMBERS_ANSWERED:
        prompts = [_prompt(triplet, member) for triplet in triplets]
        answers[member] = [None if prompt is None else by_prompt[prompt] for prompt in prompts]
    texts = {
        member: [answer.text if answer else None for answer in of] for member, of in answers.items()
    }
    return Side(answers, judge(triplets, texts["benign"], texts["injection"], texts["obeying"]))


def encoding_once(template: ChatTemplate) -> ChatTemplate:
    """Returns the template with a memory: both models, and the check of lengths, ask alike."""
    remembering = copy.copy(template)
    remembering.encode_prompt = functools.cache(template.encode_prompt)  # type: ignore[method-assign]
    return remembering


def fitting(
    answering: Answering, triplets: Sequence[Triplet]
) -> tuple[list[Triplet], list[dict[str, str]]]:
    """Leaves out triplets that cannot be encoded or held, saying so: nothing is cut.

    Returns:
        The others, and what is left out, each as `id` and `reason`.

    Raises:
        DataError: If nothing is left.
    """
    if not triplets:
        raise DataError([], "there are no test triplets to evaluate")
    max_new_tokens, template = answering.max_new_tokens, answering.template
    context = getattr(base_model_of(answering.model).config, "max_position_embeddings", None)
    usable, skipped = [], []
    for triplet in triplets:
        try:
            prompts = [_prompt(triplet, member) for member in MEMBERS_ANSWERED]
            longest = max(len(template.encode_prompt(*prompt)) for prompt in prompts if prompt)
        except DataError as error:
            skipped.append({"id": triplet.id, "reason": "; ".join(error.defects)})
            continue
        if context is not None and longest + max_new_tokens > context:
            reason = (
                f"{longest} prompt tokens and {max_new_tokens} new ones exceed the model's "
                f"context of {context}"
            )
            skipped.append({"id": triplet.id, "reason": reason})
        else:
            usable.append(triplet)
    require_some(usable, skipped, "none of the test prompts can be used")
    return usable, skipped


def require_some(
    usable: Sequence[Triplet], skipped: Sequence[Mapping[str, str]], otherwise: str
) -> None:
    """Refuses to score nothing.

    Raises:
        DataError: With the reason for each triplet left out, if none is usable.
    """
    if not usable:
        raise DataError([f"{item['id']}: {item['reason']}" for item in skipped], otherwise)


def _offset(
    progress: Progress | None, before: int, total: int
) -> Callable[[int, int], None] | None:
    return (lambda done, _: progress(before + done, total)) if progress else None
