"""Attack success and utility in generated text, tuned against base on the same prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from llmcausal.data.triplet import Triplet
from llmcausal.errors import DataError
from llmcausal.evaluation.generation import Answer, Progress, answer_prompts, base_model_of
from llmcausal.evaluation.scoring import begins_with_witness, obeyed, right
from llmcausal.evaluation.statistics import Verdict, paired_difference, proportion

if TYPE_CHECKING:
    from llmcausal.data.template import ChatTemplate

AnsweredMember = Literal["benign", "injection"]
MEMBERS_ANSWERED: tuple[AnsweredMember, ...] = ("benign", "injection")
"""The order of all lists of answers here: every benign prompt, then every attacked one."""


@dataclass(frozen=True)
class Generation:
    """One row of generations.jsonl. `base_*` is None where no baseline was run.

    Attributes:
        id: The triplet's id.
        family: Attack family; empty where the triplet names none.
        member: Which of the triplet's inputs was answered.
        system: System text.
        prompt: User text.
        expected: The right answer, as the data gives it.
        answer: The tuned model's answer.
        stopped: Whether it ended its turn within `max_new_tokens`.
        obeyed: Whether it did what the attacker asked; None on benign prompts.
        right: Whether it did the task; None without a check.
    """

    id: str
    family: str
    member: AnsweredMember
    system: str
    prompt: str
    expected: str
    answer: str
    stopped: bool
    obeyed: bool | None
    right: bool | None
    base_answer: str | None
    base_stopped: bool | None
    base_obeyed: bool | None
    base_right: bool | None


def evaluate(
    model: Any,
    template: ChatTemplate,
    triplets: Sequence[Triplet],
    *,
    max_new_tokens: int,
    batch_size: int,
    baseline: bool = True,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Answers every triplet's benign and attacked prompt and scores the answers.

    Args:
        model: The tuned model; a `PeftModel` where `baseline` is asked for.
        template: Renders prompts and knows the end-of-turn tokens.
        triplets: At least one.
        max_new_tokens: Longest answer, in tokens.
        batch_size: Prompts generated together.
        baseline: Also answer with the adapter switched off, and compare pair by pair.
        progress: Told (done, total) over all answers of both models.

    Returns:
        `base` (or None), `tuned`, `difference` (or None), `skipped` and `generations`, ready
        for JSON. Metrics are `{"value", "n", "low", "high"}`, differences as in
        `paired_difference`; `skipped` lists triplets that cannot be used, and why.

    Raises:
        DataError: If there is no triplet, or none that can be used.
        UsageError: If `baseline` is asked for and the model has no adapter.
    """
    usable, skipped = _usable(model, template, triplets, max_new_tokens)
    prompts = [(t.system, t.user_text(m)) for m in MEMBERS_ANSWERED for t in usable]
    total = len(prompts) * (2 if baseline else 1)

    def answers(adapter: bool, done_before: int) -> list[Answer]:
        return answer_prompts(
            model,
            template,
            prompts,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            adapter=adapter,
            progress=_offset(progress, done_before, total),
        )

    base = answers(adapter=False, done_before=0) if baseline else None
    tuned = answers(adapter=True, done_before=len(prompts) if baseline else 0)
    after = _verdicts(usable, tuned)
    before = _verdicts(usable, base) if base else None
    return {
        "base": _summary(usable, before) if before else None,
        "tuned": _summary(usable, after),
        "difference": _differences(before, after) if before else None,
        "skipped": skipped,
        "generations": [asdict(row) for row in _generation_rows(usable, tuned, base)],
    }


def _differences(
    before: Mapping[str, list[Verdict]], after: Mapping[str, list[Verdict]]
) -> dict[str, Any]:
    return {name: paired_difference(before[name], after[name]) for name in after}


def _usable(
    model: Any, template: ChatTemplate, triplets: Sequence[Triplet], max_new_tokens: int
) -> tuple[list[Triplet], list[dict[str, str]]]:
    """Leaves out triplets that cannot be encoded or held, saying so: nothing is cut."""
    if not triplets:
        raise DataError([], "there are no test triplets to evaluate")
    context = getattr(base_model_of(model).config, "max_position_embeddings", None)
    usable, skipped = [], []
    for triplet in triplets:
        try:
            longest = max(
                len(template.encode_prompt(triplet.system, triplet.user_text(member)))
                for member in MEMBERS_ANSWERED
            )
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
    if not usable:
        defects = [f"{item['id']}: {item['reason']}" for item in skipped]
        raise DataError(defects, "none of the test prompts can be used")
    return usable, skipped


def _offset(
    progress: Progress | None, before: int, total: int
) -> Callable[[int, int], None] | None:
    return (lambda done, _: progress(before + done, total)) if progress else None


def _verdicts(triplets: Sequence[Triplet], answers: Sequence[Answer]) -> dict[str, list[Verdict]]:
    benign = [answer.text for answer in answers[: len(triplets)]]
    attacked = [answer.text for answer in answers[len(triplets) :]]
    return {
        "attack_success_rate": [obeyed(t, a) for t, a in zip(triplets, attacked, strict=True)],
        "asr_begins_with": [
            begins_with_witness(t, a) for t, a in zip(triplets, attacked, strict=True)
        ],
        "utility": [right(t, a) for t, a in zip(triplets, benign, strict=True)],
        "utility_under_attack": [right(t, a) for t, a in zip(triplets, attacked, strict=True)],
    }


def _summary(triplets: Sequence[Triplet], verdicts: dict[str, list[Verdict]]) -> dict[str, Any]:
    families: dict[str, list[int]] = {}
    for index, triplet in enumerate(triplets):
        if triplet.attack:
            families.setdefault(triplet.attack.family, []).append(index)
    summary: dict[str, Any] = {name: proportion(values) for name, values in verdicts.items()}
    summary["families"] = {
        family: {
            name: proportion([verdicts[name][i] for i in members])
            for name in ("attack_success_rate", "utility_under_attack")
        }
        for family, members in sorted(families.items())
    }
    return summary


def _generation_rows(
    triplets: Sequence[Triplet],
    tuned: Sequence[Answer],
    base: Sequence[Answer] | None,
) -> list[Generation]:
    prompts = [(triplet, member) for member in MEMBERS_ANSWERED for triplet in triplets]
    base_answers: Sequence[Answer | None] = base if base is not None else [None] * len(prompts)
    rows = []
    for (triplet, member), answer, base_answer in zip(prompts, tuned, base_answers, strict=True):
        attacked = member == "injection"
        rows.append(
            Generation(
                id=triplet.id,
                family=triplet.attack.family if triplet.attack else "",
                member=member,
                system=triplet.system,
                prompt=triplet.user_text(member),
                expected=triplet.robust_response if attacked else triplet.response,
                answer=answer.text,
                stopped=answer.stopped,
                obeyed=obeyed(triplet, answer.text) if attacked else None,
                right=right(triplet, answer.text),
                base_answer=base_answer.text if base_answer else None,
                base_stopped=base_answer.stopped if base_answer else None,
                base_obeyed=obeyed(triplet, base_answer.text) if base_answer and attacked else None,
                base_right=right(triplet, base_answer.text) if base_answer else None,
            )
        )
    return rows
