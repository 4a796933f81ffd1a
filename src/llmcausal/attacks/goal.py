"""What an attacker wants: an instruction, and the proof that it was obeyed."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

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
