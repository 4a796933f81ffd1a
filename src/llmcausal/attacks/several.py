"""Several attacks on one text with one goal: what an attacker tries before giving up."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from llmcausal.attacks.base import AttackFamily, Goal, Phrasing, Position, place

POSITIONS: tuple[Position, ...] = ("end", "start", "middle")
JOINERS = ("\n\n", "\n", " ", " ")
OWN_GOALS = frozenset({"prompt_leaking"})
"""Families that can carry no goal but their own."""


@dataclass(frozen=True)
class Attacked:
    """A text with an attack in it, and how that was made."""

    text: str
    family: AttackFamily
    position: Position


def bare(
    document: str,
    goal: Goal,
    families: Sequence[AttackFamily],
    position: Position,
    rng: random.Random,
) -> Attacked:
    """Puts the instruction in as it is, with no word around it that gives it away."""
    naive = next(family for family in families if family.name == "naive")
    text = place(document, goal.instruction, position, rng.choice(JOINERS))
    return Attacked(text, naive, position)


def wrapped(
    document: str,
    goal: Goal,
    family: AttackFamily,
    phrasing: Phrasing,
    position: Position,
    rng: random.Random,
) -> Attacked:
    """Puts the instruction in as a family does."""
    return Attacked(family.inject(document, goal, rng, phrasing, position), family, position)


def several(
    document: str,
    goal: Goal,
    families: Sequence[AttackFamily],
    phrasing: Phrasing,
    count: int,
    rng: random.Random,
) -> list[Attacked]:
    """Returns `count` attacks: bare at the end, start and middle, then of as many families."""
    attacks = [bare(document, goal, families, position, rng) for position in POSITIONS[:count]]
    wrapping = [family for family in families if family.name not in (OWN_GOALS | {"naive"})]
    wanted = count - len(attacks)
    while wanted > 0:
        chosen = rng.sample(wrapping, min(wanted, len(wrapping)))
        wanted -= len(chosen)
        for family in chosen:
            position = POSITIONS[len(attacks) % len(POSITIONS)]
            attacks.append(wrapped(document, goal, family, phrasing, position, rng))
    return attacks
