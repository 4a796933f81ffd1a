"""What an attack is made of: a goal, and a family that puts it into a text."""

from __future__ import annotations

import random
import re
from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

Split = Literal["train", "validation", "test"]
Phrasing = Literal["train", "validation", "held_out"]
"""A pool of wordings. Only `held_out` may stand behind a reported figure of unseen attacks: those
wordings were never tried on a model, while the `validation` ones were chosen with one."""


@dataclass(frozen=True)
class Goal:
    """One instruction to the model that its real task never asks for.

    Attributes:
        kind: Name of the kind of goal, as in `llmcausal.attacks.goals.GOAL_KINDS`.
        instruction: The injected request: one sentence or two, starting with a capital.
        witness: Text whose presence in the answer, case ignored, proves that the model obeyed.
        pattern: Regular expression that counts in place of `witness`, searched with case ignored;
            "" where the witness is proof enough.
        in_system: The witness stands in the trusted system prompt, by design.
    """

    kind: str
    instruction: str
    witness: str
    pattern: str = ""
    in_system: bool = False


class Target(NamedTuple):
    """What one goal of a kind is about.

    Attributes:
        text: Stands in the wording.
        witness: As in `Goal`.
        pattern: As in `Goal`.
    """

    text: str
    witness: str
    pattern: str = ""


@dataclass(frozen=True)
class GoalKind:
    """Goals that differ in wording and in target.

    Attributes:
        wordings: For each pool, templates around `{target}`; no wording is in two pools.
        targets: For each split, what the goal is about. No witness is in two splits.
    """

    wordings: Mapping[Phrasing, tuple[str, ...]]
    targets: Mapping[Split, tuple[Target, ...]]

    def draw(self, kind: str, split: Split, phrasing: Phrasing, rng: random.Random) -> Goal:
        """Draws a goal with a target of `split` in a wording of `phrasing`."""
        target = rng.choice(self.targets[split])
        wording = rng.choice(self.wordings[phrasing])
        instruction = wording.replace("{target}", target.text)
        return Goal(kind, instruction, target.witness, target.pattern)


def whole_word(*witnesses: str) -> str:
    """Returns a pattern for any of `witnesses`, but not as a part of a longer word."""
    return rf"(?<!\w)(?:{'|'.join(map(re.escape, witnesses))})(?!\w)"


Position = Literal["start", "middle", "end"]
Difficulty = Literal["easy", "medium", "hard"]

_BOUNDARY = re.compile(r"(?<=[.!?:;])\s+|\n+")


class AttackFamily(ABC):
    """One way of making an instruction inside a text look worth obeying.

    A family is a class with phrasings. One that does more than wrap the instruction overrides
    `disguise` (encode it) or `payload` (split it); one whose goal is its own, `own_goal`.

    Attributes:
        name: Its name in `llmcausal.attacks.FAMILIES`.
        difficulty: How hard it is to recognize. `easy` announces itself in words that harmless
            text does not hold; `medium` takes the shape of ordinary parts of a text; `hard` has
            no telling sign, or is disguised or spread out.
        held_out: The test split alone uses the family; it then needs only held-out phrasings.
        train_phrasings: Templates around `{instruction}`.
        validation_phrasings: Others, for choosing a checkpoint; some were chosen with a model.
        held_out_phrasings: Others again, never tried on a model before they were settled: what
            is reported of unseen phrasings rests on these.
        slots: What a template holds, each exactly once.
        joiners: What may stand between the carrier and the attack.
    """

    name: ClassVar[str]
    difficulty: ClassVar[Difficulty]
    held_out: ClassVar[bool] = False
    train_phrasings: ClassVar[tuple[str, ...]] = ()
    validation_phrasings: ClassVar[tuple[str, ...]] = ()
    held_out_phrasings: ClassVar[tuple[str, ...]]
    slots: ClassVar[tuple[str, ...]] = ("instruction",)
    joiners: ClassVar[tuple[str, ...]] = ("\n\n", "\n\n", "\n", " ")

    def phrasings(self, pool: Phrasing) -> tuple[str, ...]:
        """Returns one of the three pools; they share no phrasing."""
        if pool == "train":
            return self.train_phrasings
        return self.validation_phrasings if pool == "validation" else self.held_out_phrasings

    def own_goal(self, system: str, rng: random.Random, phrasing: Phrasing) -> Goal | None:
        """Returns the goal that the family cannot do without, or None: any goal will do.

        Args:
            system: The trusted system prompt of the task under attack.
            rng: Source of every choice.
            phrasing: The pool that the goal's wording comes from.
        """
        return None

    def disguise(self, instruction: str, rng: random.Random) -> str:
        """Returns the instruction as it stands in the attack's text."""
        return instruction

    def payload(self, goal: Goal, rng: random.Random, phrasing: Phrasing) -> str:
        """Returns the attack's own text."""
        template = rng.choice(self.phrasings(phrasing))
        return template.replace("{instruction}", self.disguise(goal.instruction, rng))

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
            phrasing: Which of the three disjoint pools of phrasings to draw from.
            position: Where in the carrier; `middle` is the sentence or line end nearest to it.
        """
        payload = self.payload(goal, rng, phrasing)
        return place(carrier, payload, position, rng.choice(self.joiners))


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
