"""Cuts the instruction into parts that mean little by themselves and asks to join them."""

from __future__ import annotations

import random

from llmcausal.attacks.base import AttackFamily, Goal, Phrasing
from llmcausal.attacks.phrased import from_file


@from_file("payload_splitting")
class PayloadSplitting(AttackFamily):
    """Hands the instruction over in three parts, to be put together and obeyed."""

    def payload(self, goal: Goal, rng: random.Random, phrasing: Phrasing) -> str:
        text = rng.choice(self.phrasings(phrasing))
        for number, part in enumerate(split_in_three(goal.instruction, rng), start=1):
            text = text.replace(f"{{part_{number}}}", part)
        return text


def split_in_three(text: str, rng: random.Random) -> tuple[str, str, str]:
    """Cuts a text at random, before spaces where it has two."""
    spaces = [at for at, char in enumerate(text) if char == " "]
    first, second = sorted(
        rng.sample(spaces, 2) if len(spaces) > 1 else rng.choices(range(len(text) + 1), k=2)
    )
    return text[:first], text[first:second], text[second:]
