"""Buries the instruction in harmless-looking filler, or repeats it until it prevails."""

from __future__ import annotations

import random

from llmcausal.attacks.base import AttackFamily, Goal, Phrasing
from llmcausal.attacks.phrased import from_file


@from_file("context_stuffing")
class ContextStuffing(AttackFamily):
    """Surrounds the instruction with filler of about as many words as a short text."""

    def payload(self, goal: Goal, rng: random.Random, phrasing: Phrasing) -> str:
        fillers = rng.sample(self.texts[phrasing], 6)
        cut = rng.randint(2, 4)
        text = super().payload(goal, rng, phrasing)
        text = text.replace("{before}", " ".join(fillers[:cut]))
        return text.replace("{after}", " ".join(fillers[cut:]))
