"""What is wrong with a triplet on its own."""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmcausal.attacks import FAMILIES
from llmcausal.attacks.base import AttackFamily
from llmcausal.data.quality.finding import Finding, Level, Lines, shown
from llmcausal.data.triplet import Check, Triplet
from llmcausal.errors import DataError

TEMPLATE_TOKENS = re.compile(
    r"<\|[a-z_]+(?:\|>|:)|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>|</?s>|<(?:bos|eos|pad|unk)>|"
    r"<\uff5c[^\uff5c<>]{1,40}\uff5c>|</?(?:think|tool_call)>"
)
"""How chat templates mark turns: ChatML, Llama 2 and 3, Gemma, Phi, DeepSeek and the like."""

Problem = tuple[Level, str, str, str]
"""Level, rule, field and reason."""


def examine(lines: Lines) -> Iterator[Finding]:
    """Yields the findings of each triplet, in order."""
    for line, triplet in lines.triplets:
        for problems in (_witness, _answer, _tokens, _differences):
            try:
                for level, rule, field, reason in problems(triplet):
                    yield Finding(level, rule, lines.name, line, field, reason)
            except DataError as error:  # a pattern that takes too long
                field, _, reason = error.defects[0].partition(": ")
                yield Finding("error", "slow_pattern", lines.name, line, field, reason)


def _witness(triplet: Triplet) -> Iterator[Problem]:
    attack = triplet.attack
    if attack is None:
        yield "note", "no_attack", "attack", "missing: obedience cannot be checked"
        return
    if attack.check is None and not attack.witness:
        reason = "neither witness nor check: obedience cannot be checked"
        yield "note", "no_witness", "attack", reason
        return
    proof = attack.check or Check("contains", attack.witness)
    texts = {
        "benign": triplet.user_text("benign"),
        "benign_cf": triplet.user_text("benign_cf"),
        "response": triplet.response,
        "response_cf": triplet.response_cf or "",
        "response_injection": triplet.response_injection or "",
    }
    if not _aims_at_system_prompt(attack.family):
        texts["system"] = triplet.system
    for field, text in texts.items():
        if text and proof.passes(text):
            what = "witness" if attack.check is None else "attack.check"
            reason = f"holds the attack's {what} {shown(proof.value)} without any attack"
            yield "error", "witness_in_text", field, reason


def _aims_at_system_prompt(family: str) -> bool:
    """Tells whether the family's goal is its own: then the witness may come from the system."""
    if family not in FAMILIES.entries:
        return False
    return bool(FAMILIES.load(family).own_goal is not AttackFamily.own_goal)


def _answer(triplet: Triplet) -> Iterator[Problem]:
    check = triplet.check
    if check is None:
        yield "note", "no_check", "check", "missing: answers cannot be checked"
        return
    if not check.passes(triplet.response):
        reason = f"{check.kind} {shown(check.value)} fails on the triplet's own response"
        yield "error", "check_fails", "check", f"{reason} {shown(triplet.response)}"
    elif triplet.response_injection and not check.passes(triplet.response_injection):
        reason = f"{check.kind} {shown(check.value)} fails on response_injection"
        yield "warning", "check_fails_injection", "check", reason
    given = f"{triplet.system}\n{triplet.user_text('benign')}"
    if check.kind == "contains" and not check.passes(given):
        reason = (
            f"{shown(check.value)} is not in the text, so the answer is not derivable by copying"
        )
        yield "note", "not_in_text", "check.contains", reason


def _tokens(triplet: Triplet) -> Iterator[Problem]:
    for field in ("system", "context", "benign", "benign_cf", "response", "response_cf"):
        found = TEMPLATE_TOKENS.search(getattr(triplet, field) or "")
        if found:
            reason = (
                f"holds {shown(found[0])}, a chat template's mark: it is read as plain text, but "
                "suggests a failed conversion"
            )
            yield "note", "template_token", field, reason


def _differences(triplet: Triplet) -> Iterator[Problem]:
    if triplet.benign == triplet.benign_cf:
        reason = "equals benign, so the pair teaches nothing"
        yield "warning", "same_counterfactual", "benign_cf", reason
    if triplet.benign == triplet.injection:
        yield "warning", "no_injection", "injection", "equals benign: it holds no attack"
