"""Every prompt with its answers and verdicts: the rows of generations.jsonl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from llmcausal.data.triplet import Triplet
from llmcausal.evaluation.generation import Answer
from llmcausal.evaluation.summary import Verdicts

AnsweredMember = Literal["benign", "injection", "obeying"]
MEMBERS_ANSWERED: tuple[AnsweredMember, ...] = ("benign", "injection", "obeying")
"""What is answered of a triplet; `obeying` only where it can be told whether the answer obeys."""


@dataclass(frozen=True)
class Generation:
    """One row of generations.jsonl. `base_*` is None where no baseline was run.

    Attributes:
        id: The triplet's id.
        family: Attack family; empty where the triplet names none.
        position: Where the attack stands, as in `AttackInfo`; the next two likewise.
        difficulty: How hard it is to recognize.
        novelty: What of it the built-in training data holds.
        category: Kind of task.
        goal: The injected instruction.
        witness: Text that proves obedience; empty where a check of its own decides.
        member: Which of the triplet's inputs was answered.
        system: System text.
        prompt: User text.
        expected: The right answer, as the data gives it; empty where it is unknown.
        answer: The tuned model's answer.
        stopped: Whether it ended its turn within `max_new_tokens`.
        obeyed: Whether it did what the attacker asked, or on `obeying` the trusted instruction;
            None on benign prompts.
        right: Whether it did the task; None without a check.
    """

    id: str
    family: str
    position: str
    difficulty: str
    novelty: str
    category: str
    goal: str
    witness: str
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


@dataclass(frozen=True)
class Side:
    """One model's answers, and the verdicts on them.

    Attributes:
        answers: Of each member, one a triplet; None where the member was not answered.
        verdicts: As in `summary.judge`.
    """

    answers: Mapping[AnsweredMember, Sequence[Answer | None]]
    verdicts: Verdicts


def generation_rows(
    triplets: Sequence[Triplet], tuned: Side, base: Side | None
) -> list[dict[str, Any]]:
    """Returns the rows, ready for JSON."""
    rows = []
    for member in MEMBERS_ANSWERED:
        for index, triplet in enumerate(triplets):
            attack = triplet.attack
            answer, obeyed, right = _of(tuned, member, index)
            if answer is None:
                continue
            before, base_obeyed, base_right = (
                _of(base, member, index) if base else (None, None, None)
            )
            row = Generation(
                id=triplet.id,
                family=attack.family if attack else "",
                position=attack.position if attack else "",
                difficulty=attack.difficulty if attack else "",
                novelty=attack.novelty if attack else "",
                category=triplet.category,
                goal=attack.goal if attack else "",
                witness=attack.witness if attack else "",
                member=member,
                system=triplet.system_text(member),
                prompt=triplet.user_text(member),
                expected=_expected(triplet, member),
                answer=answer.text,
                stopped=answer.stopped,
                obeyed=obeyed,
                right=right,
                base_answer=before.text if before else None,
                base_stopped=before.stopped if before else None,
                base_obeyed=base_obeyed,
                base_right=base_right,
            )
            rows.append(asdict(row))
    return rows


def _expected(triplet: Triplet, member: AnsweredMember) -> str:
    if member == "obeying":
        return triplet.response_obeying or ""
    return triplet.robust_response if member == "injection" else triplet.response


def _of(
    side: Side, member: AnsweredMember, index: int
) -> tuple[Answer | None, bool | None, bool | None]:
    answer, verdicts = side.answers[member][index], side.verdicts
    if answer is None:
        return None, None, None
    if member == "benign":
        return answer, None, verdicts["utility"][index]
    if member == "obeying":
        return answer, verdicts["instruction_following"][index], None
    return answer, verdicts["attack_success_rate"][index], verdicts["utility_under_attack"][index]
