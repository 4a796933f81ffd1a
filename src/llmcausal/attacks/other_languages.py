"""Speaks to the model in a language other than that of the task."""

from __future__ import annotations

import random

from llmcausal.attacks.base import AttackFamily, Goal, Phrasing
from llmcausal.attacks.phrased import from_file

TO_WRITE_A_TEXT = ("print_word", "fixed_reply")
"""Kinds of goals that only ask to write the witness: they need no English."""


@from_file("other_languages")
class OtherLanguages(AttackFamily):
    """Is foreign throughout where the goal allows it, else foreign words before an English goal."""

    def payload(self, goal: Goal, rng: random.Random, phrasing: Phrasing) -> str:
        if goal.kind in TO_WRITE_A_TEXT:
            return rng.choice(self.texts["requests"]).replace("{text}", goal.witness)
        return super().payload(goal, rng, phrasing)
