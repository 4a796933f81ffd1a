"""Attack success and utility in generated text: tuned against base, on the same prompts."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

from peft.helpers import rescale_adapter_scale

from llmcausal.data.spans import in_words
from llmcausal.data.template import ChatTemplate
from llmcausal.data.triplet import AttackInfo, Triplet
from llmcausal.errors import DataError
from llmcausal.evaluation.generation import (
    Answer,
    Answering,
    Progress,
    PromptPair,
    answer_prompts,
    base_model_of,
)
from llmcausal.evaluation.scoring import asks_to_obey
from llmcausal.evaluation.summary import (
    Verdicts,
    differences,
    judge,
    likeness_between,
    summarize,
    verdict_on,
)
from llmcausal.metrics import of

Answers = Mapping[PromptPair, Answer]
Weights = Callable[[], AbstractContextManager[None]]
"""Puts other adapter weights into the model for a while."""
AnsweredMember = Literal["benign", "injection", "obeying"]
MEMBERS_ANSWERED: tuple[AnsweredMember, ...] = ("benign", "injection", "obeying")
"""A triplet's members that are answered; `obeying` only if a check can verify obedience."""
_METRICS: Mapping[AnsweredMember, tuple[str, str]] = {
    "benign": ("", "utility"),
    "injection": ("attack_success_rate", "utility_under_attack"),
    "obeying": ("instruction_following", ""),
}
"""For each member, the metrics whose verdicts say that an answer obeys, and that it is right."""


@dataclass(frozen=True)
class Judged:
    """A model's answers and verdicts, one a triplet; None where a member has no answer."""

    answers: Mapping[AnsweredMember, Sequence[Answer | None]]
    verdicts: Verdicts

    def outcome(self, member: AnsweredMember, index: int) -> dict[str, Any]:
        """Returns an answer with its verdicts as `generation_rows` writes them, empty without."""
        answer = self.answers[member][index]
        if answer is None:
            return {}
        obeyed, right = (
            self.verdicts[metric][index] if metric else None for metric in _METRICS[member]
        )
        return {"answer": answer.text, "stopped": answer.stopped, "obeyed": obeyed, "right": right}


def evaluate(
    answering: Answering,
    triplets: Sequence[Triplet],
    *,
    baseline: bool = True,
    base_weights: Weights | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Answers and scores every triplet's benign and attacked prompt, and its obeying one if any.

    A baseline is a second model, compared prompt by prompt. `base_weights` makes it; with None it
    is the model without its adapter. `progress` counts both models' distinct prompts.

    Returns:
        `base` (or None), `tuned`, `difference`, `verdict` and `likeness` (or None), `skipped` and
        `generations`, ready for JSON. Metrics are estimates, differences as in
        `paired_difference`, the verdict as in `verdict_on`; `skipped` lists unusable triplets
        with their reasons.

    Raises:
        DataError: If no triplet can be used, or a check takes too long.
        UsageError: If a baseline is requested and the model has no adapter.
    """
    answering = replace(answering, template=encoding_once(answering.template))
    usable, skipped = fitting(answering, triplets)
    distinct = prompts_of(usable)
    total = len(distinct) * (2 if baseline else 1)

    def answers(weights: Weights, adapter: bool, before: int) -> Answers:
        def shown(done: int, _: int) -> None:
            if progress:
                progress(before + done, total)

        with weights():
            found = answer_prompts(answering, distinct, adapter=adapter, progress=shown)
        return dict(zip(distinct, found, strict=True))

    base = answers(base_weights or nullcontext, base_weights is not None, 0) if baseline else None
    tuned = answers(nullcontext, True, total - len(distinct))
    return score_answers(usable, skipped, tuned, base)


def measure_scales(
    answering: Answering,
    triplets: Sequence[Triplet],
    scales: Sequence[float],
    known: Mapping[float, Mapping[str, Any] | None],
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Measures generated answers with the adapter's update multiplied by each scale.

    Args:
        known: Figures of scales that are measured already, such as 1, and 0 for the base.

    Returns:
        `scale` and the figures of answers, by growing scale.
    """
    points = []
    for scale in sorted(set(scales)):
        figures = known.get(scale)
        if figures is None:
            with rescale_adapter_scale(answering.model, scale):
                result = evaluate(answering, triplets, baseline=False, progress=progress)
            figures = result["tuned"]
        names = [metric.name for metric in of("answers") if metric.name in figures]
        points.append({"scale": scale, **{name: figures[name] for name in names}})
    return points


def encoding_once(template: ChatTemplate) -> ChatTemplate:
    """Returns the template with a cache: both models and the length check encode equal prompts."""
    remembering = copy.copy(template)
    remembering.encode_prompt = functools.cache(template.encode_prompt)  # type: ignore[method-assign]
    return remembering


def prompts_of(triplets: Sequence[Triplet]) -> list[PromptPair]:
    """Returns the triplets' distinct prompts to answer, triplet by triplet."""
    prompts = (_prompt(triplet, member) for triplet in triplets for member in MEMBERS_ANSWERED)
    return list(dict.fromkeys(prompt for prompt in prompts if prompt is not None))


def score_answers(
    usable: Sequence[Triplet],
    skipped: list[dict[str, str]],
    tuned: Answers,
    base: Answers | None,
) -> dict[str, Any]:
    """Scores one or two models' answers to all of `prompts_of(usable)`; returns as `evaluate`."""
    after, before = _judged(usable, tuned), None if base is None else _judged(usable, base)
    figures = summarize(usable, after.verdicts)
    difference = likeness = None
    if before and base is not None:
        difference = differences(usable, before.verdicts, after.verdicts)
        clean = dict.fromkeys(each.prompt("benign") for each in usable)
        texts = ({prompt: side[prompt].text for prompt in clean} for side in (tuned, base))
        likeness = likeness_between(*texts)
    return {
        "base": summarize(usable, before.verdicts) if before else None,
        "tuned": figures,
        "difference": difference,
        "verdict": verdict_on(figures, difference),
        "likeness": likeness,
        "skipped": skipped,
        "generations": generation_rows(usable, after, before),
    }


def _prompt(triplet: Triplet, member: AnsweredMember) -> PromptPair | None:
    if member == "obeying" and not asks_to_obey(triplet):
        return None
    return triplet.prompt(member)


def _judged(triplets: Sequence[Triplet], by_prompt: Answers) -> Judged:
    answers: dict[AnsweredMember, list[Answer | None]] = {}
    for member in MEMBERS_ANSWERED:
        prompts = [_prompt(triplet, member) for triplet in triplets]
        answers[member] = [None if prompt is None else by_prompt[prompt] for prompt in prompts]
    texts = {
        member: [answer.text if answer else None for answer in given]
        for member, given in answers.items()
    }
    return Judged(answers, judge(triplets, texts["benign"], texts["injection"], texts["obeying"]))


def generation_rows(
    triplets: Sequence[Triplet], tuned: Judged, base: Judged | None
) -> list[dict[str, Any]]:
    """Returns the rows of generations.jsonl: every prompt with its answers and verdicts.

    `expected` is the data's right answer, empty if unknown. `stopped` is whether the model ended
    its turn within `max_new_tokens`. `obeyed` is whether the answer does what the attacker asks,
    or for `obeying` what the trusted instruction asks; None for benign prompts. `right` is whether
    it does the task; None without a check. `base_*` is None without a baseline.
    """
    rows = []
    for member in MEMBERS_ANSWERED:
        for index, triplet in enumerate(triplets):
            attack = triplet.attack or AttackInfo("")
            expected = {
                "benign": triplet.response,
                "injection": triplet.robust_response,
                "obeying": triplet.response_obeying or "",
            }
            own = tuned.outcome(member, index)
            if not own:
                continue
            before = base.outcome(member, index) if base else dict.fromkeys(own)
            rows.append(
                {
                    "id": triplet.id,
                    "family": attack.family,
                    "position": attack.position,
                    "difficulty": attack.difficulty,
                    "novelty": attack.novelty,
                    "category": triplet.category,
                    "goal": attack.goal,
                    "witness": attack.witness,
                    "member": member,
                    "system": triplet.system_text(member),
                    "prompt": in_words(triplet.content(member)),
                    "expected": expected[member],
                    **own,
                    **{f"base_{name}": value for name, value in before.items()},
                }
            )
    return rows


def fitting(
    answering: Answering, triplets: Sequence[Triplet]
) -> tuple[list[Triplet], list[dict[str, str]]]:
    """Leaves out triplets that a model cannot answer, as `answerable`."""
    context = getattr(base_model_of(answering.model).config, "max_position_embeddings", None)
    return answerable(answering.template, triplets, answering.max_new_tokens, context)


def answerable(
    template: ChatTemplate, triplets: Sequence[Triplet], max_new_tokens: int, context: int | None
) -> tuple[list[Triplet], list[dict[str, str]]]:
    """Leaves out triplets that cannot be encoded or exceed the model's context; nothing is cut.

    Returns:
        The other triplets, and the `id` and `reason` of each that is left out.

    Raises:
        DataError: If none is left.
    """
    if not triplets:
        raise DataError([], "there are no test triplets to evaluate")
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
    """Raises a DataError with each left-out triplet's reason if there is nothing to score."""
    if not usable:
        raise DataError([f"{item['id']}: {item['reason']}" for item in skipped], otherwise)
