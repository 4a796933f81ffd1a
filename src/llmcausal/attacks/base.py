"""The contract of an attack family, and where in a text an attack is put."""

from __future__ import annotations

import random
import re
from abc import ABC
from typing import ClassVar, Literal

from llmcausal.attacks.goal import Goal

Phrasing = Literal["train", "held_out"]
Position = Literal["start", "middle", "end"]

_BOUNDARY = re.compile(r"(?<=[.!?:;])\s+|\n+")


class AttackFamily(ABC):
    """One way of making an instruction inside a text look worth obeying.

    A family is a class with phrasings; one that does more than wrap the instruction
    (encode it, split it) overrides `payload`.

    Attributes:
        name: Its name in `llmcausal.attacks.FAMILIES`.
        train_phrasings: Templates around `{instruction}`.
        held_out_phrasings: Others, so that a model trained on the first is tested on unseen ones.
        joiner: What stands between the carrier and the attack.
    """

    name: ClassVar[str]
    train_phrasings: ClassVar[tuple[str, ...]]
    held_out_phrasings: ClassVar[tuple[str, ...]]
    joiner: ClassVar[str] = "\n\n"

    def payload(self, goal: Goal, rng: random.Random, phrasing: Phrasing) -> str:
        """Returns the attack's own text."""
        known = self.train_phrasings if phrasing == "train" else self.held_out_phrasings
        return rng.choice(known).replace("{instruction}", goal.instruction)

    def inject(
        self,
        carrier: str,
        goal: Goal,
        rng: random.Random,
        phrasing: Phrasing,
        position: Position,
    ) -> str:
        """Returns `carrier` with the attack put in; equal arguments give equal text.

        Args:
            carrier: The harmless text that the attacker controls.
            goal: What the model is told to do instead of its task.
            rng: Source of every choice.
            phrasing: Which of the two disjoint sets of phrasings to draw from.
            position: Where in the carrier; `middle` is the sentence or line end nearest to it.
        """
        return place(carrier, self.payload(goal, rng, phrasing), position, self.joiner)


def place(carrier: str, payload: str, position: Position, joiner: str) -> str:
    """Puts `payload` at the start, middle or end of `carrier`."""
    if position == "start":
        return f"{payload}{joiner}{carrier}"
    if position == "end":
        return f"{carrier}{joiner}{payload}"
    before, after = _halves(carrier)
    return f"{before}{joiner}{payload}{joiner}{after}"


def _halves(carrier: str) -> tuple[str, str]:
    boundaries = list(_BOUNDARY.finditer(carrier)) or list(re.finditer(r"\s+", carrier))
    if not boundaries:
        return carrier, ""
    nearest = min(boundaries, key=lambda found: abs(found.start() - len(carrier) / 2))
    return carrier[: nearest.start()], carrier[nearest.end() :]
