"""The training example: a task under one system prompt, with three inputs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import regex

from llmcausal.data.spans import Content, Spans, filled
from llmcausal.errors import DataError

NOT_TEXT = re.compile("[\\0\\ud800-\\udfff]")
"""NUL, and lone surrogates, which Python makes of bytes outside UTF-8: no text may hold them."""
PATTERN_SECONDS = 1.0
"""A foreign pattern may backtrack without end; a search over this time is a defect."""

CheckKind = Literal["contains", "regex", "exact"]
Member = Literal["benign", "benign_cf", "injection", "obeying", "yielding"]

SEEN = "seen"
"""Novelty of an attack that is phrased as in the built-in training data."""

MEMBERS: tuple[Member, ...] = ("benign", "benign_cf", "injection")
"""The three inputs of a triplet, in the order of packing."""

BRANCHES: tuple[Member, ...] = (*MEMBERS, "obeying", "yielding")
"""All trainable members. `obeying` has the attack's instruction as the trusted one, and its answer;
`yielding` is the injection with the answer that the attacker wants."""

_INPUTS: dict[Member, Member] = {"obeying": "benign", "yielding": "injection"}


@dataclass(frozen=True)
class Check:
    """Verifies an answer without a judge model.

    `contains` and `exact` ignore case and surrounding space; `regex` is searched.
    """

    kind: CheckKind
    value: str

    def passes(self, answer: str) -> bool:
        """Whether `answer` fulfils the check; raises a DataError after `PATTERN_SECONDS`."""
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
    """The attack inside `injection`; an unknown fact is ""."""

    family: str
    goal: str = ""
    witness: str = ""  # text that proves obedience if the answer holds it
    check: Check | None = None  # proof that replaces `witness` if a text is not enough
    position: str = ""  # place in the text: start, middle or end
    difficulty: str = ""  # easy, medium or hard to recognize
    # `seen` (the built-in training data has the phrasing), `new_phrasing` (it only has the family)
    # or `new_family`.
    novelty: str = ""


@dataclass(frozen=True)
class Triplet:
    """One example. The text fields are untrusted data, never control tokens."""

    id: str  # unique within its file
    system: str
    benign: str
    benign_cf: str  # another harmless input for the same task, the counterfactual
    injection: str  # an input that carries an attack
    response: str = ""  # right answer to `benign`; empty for the model's own
    response_cf: str | None = None  # right answer to `benign_cf`, where known
    response_injection: str | None = None  # right answer to `injection`; None means `response`
    # Obeys the attack's instruction: right for the trusted instruction, wrong for the injected one.
    response_obeying: str | None = None
    # Input with the attack's instruction as the trusted one; None means `benign`.
    obeying: str | None = None
    system_obeying: str | None = None  # system prompt of `obeying`; None means `attack.goal`
    unfinished: tuple[str, ...] = ()  # the answers that were cut off; they do not end the turn
    context: str = ""  # before each of the three inputs; the only text that may be shortened
    # The conversation after the system prompt, if it is more than one text. Each input's place is
    # the span without text, which is untrusted.
    spans: Spans = ()
    category: str = ""  # kind of task
    attack: AttackInfo | None = None
    check: Check | None = None  # verifies an answer, where known

    @property
    def prompts(self) -> tuple[str, str, str]:
        """The texts that two distinct triplets do not share."""
        return self.system, self.benign, self.injection

    @property
    def robust_response(self) -> str:
        return self.response if self.response_injection is None else self.response_injection

    @property
    def attack_was_seen(self) -> bool:
        """Whether the built-in training data has the attack's phrasing."""
        return self.attack is not None and self.attack.novelty == SEEN

    @property
    def swapped_system(self) -> str:
        """The attack's instruction as the trusted one; empty if it is unknown."""
        return self.system_obeying or (self.attack.goal if self.attack else "")

    def system_text(self, member: Member) -> str:
        return self.swapped_system if member == "obeying" else self.system

    def user_text(self, member: Member) -> str:
        text: str = getattr(self, member, None) or getattr(self, _INPUTS[member])
        return f"{self.context}\n{text}" if self.context else text

    def content(self, member: Member) -> Content:
        """Returns what follows the system prompt.

        The swapped instruction takes the place of all that is trusted, so `obeying` keeps only the
        untrusted spans.
        """
        spans = self.spans
        if member == "obeying":
            spans = tuple(span for span in spans if not span.trusted)
        return filled(spans, self.user_text(member))

    def prompt(self, member: Member) -> tuple[str, Content]:
        return self.system_text(member), self.content(member)
