"""The training example: one task under one system prompt, read from three inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import regex

from llmcausal.errors import DataError

PATTERN_SECONDS = 1.0
"""A pattern from strangers may backtrack without end; longer than this counts as a defect."""

Member = Literal["benign", "benign_cf", "injection", "obeying", "yielding"]

SEEN = "seen"
"""Novelty of an attack in a phrasing of the built-in training data."""

MEMBERS: tuple[Member, ...] = ("benign", "benign_cf", "injection")
"""The three inputs of a triplet, in the order in which they are packed."""

BRANCHES: tuple[Member, ...] = (*MEMBERS, "obeying", "yielding")
"""All that a triplet can be trained on: `obeying` has the attack's instruction as the trusted one
and is answered by it; `yielding` is the injection, answered as the attacker wants."""


_INPUTS: dict[Member, Member] = {"obeying": "benign", "yielding": "injection"}


@dataclass(frozen=True)
class Check:
    """How an answer is verified without a judge model.

    Attributes:
        kind: `contains` and `exact` ignore case and surrounding space; `regex` is searched.
        value: The text or pattern.
    """

    kind: Literal["contains", "regex", "exact"]
    value: str

    def passes(self, answer: str) -> bool:
        """Says whether `answer` fulfils the check.

        Raises:
            DataError: If a pattern takes longer than `PATTERN_SECONDS`.
        """
        if self.kind == "regex":
            try:
                found = regex.search(self.value, answer, regex.IGNORECASE, timeout=PATTERN_SECONDS)
            except TimeoutError:
                reason = f"check.regex: {self.value[:80]!a} takes over {PATTERN_SECONDS:g} s"
                raise DataError([reason], "write the pattern without nested repeats") from None
            return found is not None
        given, wanted = answer.strip().casefold(), self.value.strip().casefold()
        return wanted in given if self.kind == "contains" else given == wanted


@dataclass(frozen=True)
class AttackInfo:
    """What the attacker inside `injection` wants, and how the attack is made.

    Attributes:
        family: Attack family, as in `llmcausal.attacks`.
        goal: What the injected text asks for, in words.
        witness: Text whose presence in the answer proves that the model obeyed.
        check: Proof of obedience where a text is not enough; counts in place of `witness`.
        position: Where in the text the attack stands: start, middle or end; "" if unknown.
        difficulty: easy, medium or hard to recognize; "" if unknown.
        novelty: What of the attack the built-in training data holds: `seen` (its phrasing),
            `new_phrasing` (its family), `new_family` (nothing); "" if unknown.
    """

    family: str
    goal: str = ""
    witness: str = ""
    check: Check | None = None
    position: str = ""
    difficulty: str = ""
    novelty: str = ""


@dataclass(frozen=True)
class Triplet:
    """One example. The text fields are untrusted data, never control tokens.

    Attributes:
        id: Unique within its file.
        system: The trusted task.
        benign: The user's input.
        benign_cf: Another harmless input for the same task.
        injection: An input that carries an attack.
        response: Right answer to `benign`; empty where the model's own is to be taken.
        response_cf: Right answer to `benign_cf`, where known.
        response_injection: Right answer to `injection`; equals `response` when not given.
        response_obeying: Answer that obeys the attack's instruction: right where that is the
            trusted one, wrong where it stands in the text.
        obeying: User's input with the attack's instruction as the trusted one, where that is not
            `benign`.
        system_obeying: System prompt of `obeying`; `attack.goal` when not given.
        unfinished: Which of the answers were cut off, so that they do not end the turn.
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
    response: str = ""
    response_cf: str | None = None
    response_injection: str | None = None
    response_obeying: str | None = None
    obeying: str | None = None
    system_obeying: str | None = None
    unfinished: tuple[str, ...] = ()
    context: str = ""
    category: str = ""
    attack: AttackInfo | None = None
    check: Check | None = None

    @property
    def robust_response(self) -> str:
        """The answer that `injection` should get."""
        return self.response if self.response_injection is None else self.response_injection

    @property
    def attack_was_seen(self) -> bool:
        """Whether the attack is in a phrasing of the built-in training data."""
        return self.attack is not None and self.attack.novelty == SEEN

    @property
    def swapped_system(self) -> str:
        """The attack's instruction as the trusted one; empty where it is unknown."""
        return self.system_obeying or (self.attack.goal if self.attack else "")

    def system_text(self, member: Member) -> str:
        """Returns the trusted instruction of a member."""
        return self.swapped_system if member == "obeying" else self.system

    def user_text(self, member: Member) -> str:
        """Returns the user turn of a member: the context, then that member's input."""
        text: str = getattr(self, member, None) or getattr(self, _INPUTS[member])
        return f"{self.context}\n{text}" if self.context else text
