"""The parts of an attack: a goal, and a family that puts it into a text."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

Split = Literal["train", "validation", "test"]
Phrasing = Literal["train", "validation", "held_out"]
"""A pool of wordings. Only `held_out` supports a figure of unseen attacks, since no model was tried
on it; a model helped to choose the `validation` wordings."""


@dataclass(frozen=True)
class Goal:
    """One instruction to the model that its real task never asks for."""

    kind: str  # name in `llmcausal.attacks.goals.GOAL_KINDS`
    instruction: str  # one or two sentences, starting with a capital
    witness: str  # text that proves obedience when it is in the answer, case ignored
    # Regular expression that replaces `witness` as the proof, case ignored; "" for none.
    pattern: str = ""
    in_system: bool = False  # the trusted system prompt holds the witness, by design


Position = Literal["start", "middle", "end"]
Difficulty = Literal["easy", "medium", "hard"]

_BOUNDARY = re.compile(r"(?<=[.!?:;])\s+|\n+")


class AttackFamily:
    """One way of making an instruction inside a text look worth obeying.

    A family is a class with phrasings. A family that changes the instruction overrides `payload`,
    a family with its own goal overrides `own_goal`.
    """

    name: ClassVar[str]  # in `llmcausal.attacks.FAMILIES`
    # `easy` announces itself in words that harmless text does not hold; `medium` takes the shape of
    # ordinary parts of a text; `hard` has no telling sign, or is disguised or spread out.
    difficulty: ClassVar[Difficulty]
    # Only the test split uses the family; it then needs only held-out phrasings.
    held_out: ClassVar[bool] = False
    train_phrasings: ClassVar[tuple[str, ...]] = ()  # templates around `{instruction}`
    validation_phrasings: ClassVar[tuple[str, ...]] = ()  # others, for choosing a checkpoint
    held_out_phrasings: ClassVar[tuple[str, ...]]  # others, written without trying any model
    slots: ClassVar[tuple[str, ...]] = ("instruction",)  # a template holds each once
    # Separators between the carrier and the attack.
    joiners: ClassVar[tuple[str, ...]] = ("\n\n", "\n\n", "\n", " ")
    texts: ClassVar[Mapping[str, tuple[str, ...]]] = {}  # others of a family with code, by name

    def phrasings(self, pool: Phrasing) -> tuple[str, ...]:
        found: tuple[str, ...] = getattr(self, f"{pool}_phrasings")
        return found

    def own_goal(self, system: str, rng: random.Random) -> Goal | None:
        """Returns the family's own goal against a system prompt, or None if any goal will do."""
        return None

    def payload(self, goal: Goal, rng: random.Random, phrasing: Phrasing) -> str:
        return rng.choice(self.phrasings(phrasing)).replace("{instruction}", goal.instruction)

    def inject(
        self,
        carrier: str,
        goal: Goal,
        rng: random.Random,
        phrasing: Phrasing,
        position: Position,
    ) -> str:
        """Returns `carrier` with the attack in it; equal arguments give equal text."""
        payload = self.payload(goal, rng, phrasing)
        return place(carrier, payload, position, rng.choice(self.joiners))


def place(carrier: str, payload: str, position: Position, joiner: str) -> str:
    """Joins a payload to a text; the middle is the nearest end of a sentence or line, or space."""
    if position == "start":
        return f"{payload}{joiner}{carrier}"
    if position == "end":
        return f"{carrier}{joiner}{payload}"
    before, after = carrier, ""
    boundaries = list(_BOUNDARY.finditer(carrier)) or list(re.finditer(r"\s+", carrier))
    if boundaries:
        nearest = min(boundaries, key=lambda found: abs(found.start() - len(carrier) / 2))
        before, after = carrier[: nearest.start()], carrier[nearest.end() :]
    return f"{before}{joiner}{payload}{joiner}{after}"


POSITIONS: tuple[Position, ...] = ("end", "start", "middle")
JOINERS = ("\n\n", "\n", " ", " ")
OWN_GOALS = frozenset({"prompt_leaking"})
"""Families that carry only their own goal."""


@dataclass(frozen=True)
class AttackedText:
    text: str
    family: AttackFamily
    position: Position


def bare(
    document: str,
    goal: Goal,
    families: Sequence[AttackFamily],
    position: Position,
    rng: random.Random,
) -> AttackedText:
    """Puts in the instruction alone, without any telling word around it."""
    naive = next(family for family in families if family.name == "naive")
    text = place(document, goal.instruction, position, rng.choice(JOINERS))
    return AttackedText(text, naive, position)


def several(
    document: str,
    goal: Goal,
    families: Sequence[AttackFamily],
    phrasing: Phrasing,
    count: int,
    rng: random.Random,
) -> list[AttackedText]:
    """Returns `count` attacks: bare at the end, start and middle, then of as many families."""
    attacks = [bare(document, goal, families, position, rng) for position in POSITIONS[:count]]
    wrapping = [family for family in families if family.name not in (OWN_GOALS | {"naive"})]
    wanted = count - len(attacks)
    while wanted > 0:
        chosen = rng.sample(wrapping, min(wanted, len(wrapping)))
        wanted -= len(chosen)
        for family in chosen:
            position = POSITIONS[len(attacks) % len(POSITIONS)]
            text = family.inject(document, goal, rng, phrasing, position)
            attacks.append(AttackedText(text, family, position))
    return attacks
