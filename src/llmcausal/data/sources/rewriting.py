"""Asks a model to say a text in other words, and keeps only what still says the same."""

from __future__ import annotations

import re

from llmcausal.data.sources.example import SourceExample, Unusable

INSTRUCTION = (
    "Rewrite the text of the user in other words. Keep every fact, name, date and number. "
    "Answer with the rewritten text alone."
)
"""System prompt of a rewriting; the text is what the user says."""
SHORTEST, LONGEST = 0.5, 2.0
"""Of the original's characters; outside it, something was left out or made up."""
_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")


def checked_rewriting(example: SourceExample, rewritten: str, *, ended: bool) -> str:
    """Returns the rewriting of an example's document if it may stand for it.

    What can be checked by rule is: numbers, the answer, the length. That the rest is true is
    the model's word.

    Args:
        example: What was rewritten.
        rewritten: The model's answer.
        ended: Whether the model ended it by itself.

    Raises:
        Unusable: If it is cut, empty, the same text, or says something else.
    """
    original = example.document
    if not ended:
        raise Unusable("document: the model did not finish its rewriting")
    if _words(rewritten) in ([], _words(original)):
        raise Unusable("document: the model gave no new wording")
    if not SHORTEST <= len(rewritten) / len(original) <= LONGEST:
        raise Unusable("document: the model's rewriting is far shorter or longer")
    if set(_NUMBER.findall(original)) != set(_NUMBER.findall(rewritten)):
        raise Unusable("document: the model's rewriting has other numbers")
    check = example.check
    if check is not None and check.passes(original) and not check.passes(rewritten):
        raise Unusable("document: the model's rewriting lost the answer")
    return rewritten


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
