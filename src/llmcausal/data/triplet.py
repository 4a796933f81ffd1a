"""The training example: one task under one system prompt, read from three inputs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Member = Literal["benign", "benign_cf", "injection"]

MEMBERS: tuple[Member, ...] = ("benign", "benign_cf", "injection")
"""The three inputs of a triplet, in the order in which they are packed."""


@dataclass(frozen=True)
class AttackInfo:
    """What the attacker inside `injection` wants.

    Attributes:
        family: Attack family, as in `llmcausal.attacks`.
        goal: What the injected text asks for, in words.
        witness: Text whose presence in the answer proves that the model obeyed.
    """

    family: str
    goal: str = ""
    witness: str = ""


@dataclass(frozen=True)
class Check:
    """How an answer to the task is verified without a judge model.

    Attributes:
        kind: `contains` and `exact` ignore case and surrounding space; `regex` is searched.
        value: The text or pattern.
    """

    kind: Literal["contains", "regex", "exact"]
    value: str

    def passes(self, answer: str) -> bool:
        """Says whether `answer` does the task."""
        if self.kind == "regex":
            return re.search(self.value, answer, re.IGNORECASE) is not None
        found, wanted = answer.strip().casefold(), self.value.strip().casefold()
        return wanted in found if self.kind == "contains" else found == wanted


@dataclass(frozen=True)
class Triplet:
    """One example. The text fields are untrusted data, never control tokens.

    Attributes:
        id: Unique within its file.
        system: The trusted task.
        benign: The user's input.
        benign_cf: Another harmless input for the same task.
        injection: An input that carries an attack.
        response: Right answer to `benign`.
        response_cf: Right answer to `benign_cf`, where known.
        response_injection: Right answer to `injection`; equals `response` when not given.
        context: Text put before each of the three inputs; the only text that may be shortened.
        category: Kind of task.
        attack: What the attack wants, where known.
        check: How an answer is verified, where known.
    """

    id: str
    system: str
    benign: str
    benign_cf: str
    injection: str
    response: str
    response_cf: str | None = None
    response_injection: str | None = None
    context: str = ""
    category: str = ""
    attack: AttackInfo | None = None
    check: Check | None = None

    @property
    def robust_response(self) -> str:
        """The answer that `injection` should get."""
        return self.response if self.response_injection is None else self.response_injection

    def user_text(self, member: Member) -> str:
        """Returns the user turn of a member: the context, then that member's input."""
        text: str = getattr(self, member)
        return f"{self.context}\n{text}" if self.context else text
