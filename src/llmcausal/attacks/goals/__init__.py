"""Kinds of goals, one data file each: wordings in three pools, targets in three splits.

A target names its witness, or `words`, any of which proves obedience as a whole word. Prefer
witnesses that are not in the instruction: then an answer that quotes the attack proves nothing.
"""

from __future__ import annotations

import random
import re
from functools import cache
from importlib.resources import files
from typing import Annotated, Self

from pydantic import AfterValidator, model_validator

from llmcausal.attacks.base import Goal, Phrasing, Split
from llmcausal.data_files import DataFile, read_table
from llmcausal.registry import Table

GOAL_KINDS = Table(
    "kind of goal",
    {
        name: f"{__name__}:{name}"
        for name in (
            "print_word",
            "claim",
            "fixed_reply",
            "other_question",
            "other_task",
            "style",
            "link",
            "phishing",
            "refusal",
        )
    },
)


class Target(DataFile):
    """A goal's subject: its text in the wording, and the proof as in `Goal`."""

    text: str
    witness: str = ""
    pattern: str = ""
    words: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _provable(self) -> Self:
        if bool(self.witness) == bool(self.words):
            raise ValueError(f"{self.text}: give a witness or words, and not both")
        re.compile(self.pattern)
        if not self.words:
            return self
        whole_word = rf"(?<!\w)(?:{'|'.join(map(re.escape, self.words))})(?!\w)"
        return self.model_copy(update={"witness": self.words[0], "pattern": whole_word})


def _around_target(wording: str) -> str:
    if "{target}" not in wording:
        raise ValueError("a wording holds {target}")
    return wording


class GoalKind(DataFile):
    """Goals that differ in wording and in target.

    `wordings` are templates around `{target}`. Pools share no wording, splits no witness.
    """

    wordings: dict[Phrasing, tuple[Annotated[str, AfterValidator(_around_target)], ...]]
    targets: dict[Split, tuple[Target, ...]]

    def draw(self, kind: str, split: Split, phrasing: Phrasing, rng: random.Random) -> Goal:
        target = rng.choice(self.targets[split])
        wording = rng.choice(self.wordings[phrasing])
        instruction = wording.replace("{target}", target.text)
        return Goal(kind, instruction, target.witness, target.pattern)


@cache
def __getattr__(name: str) -> GoalKind:
    if name not in GOAL_KINDS.entries:
        raise AttributeError(name)
    return read_table(files(__name__).joinpath(f"{name}.toml"), GoalKind)
