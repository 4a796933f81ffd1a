"""Kinds of goals, one data file each: wordings in three pools, targets in three splits.

A new kind is a new file here and a name in this table. A target names its witness, or the `words`
of which any fulfils the request, each as a whole word. Prefer targets whose witness is not in the
instruction: a model that merely quotes the attack then fails it.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Annotated, Self

from pydantic import AfterValidator, model_validator

from llmcausal.attacks.base import GoalKind, Phrasing, Split, Target, whole_word
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


class TargetEntry(DataFile):
    """One target as it is written down: with its witness, or with words that fulfil it."""

    text: str
    witness: str = ""
    pattern: str = ""
    words: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _provable(self) -> Self:
        if bool(self.witness) == bool(self.words):
            raise ValueError(f"{self.text}: give a witness or words, and not both")
        re.compile(self.pattern)
        return self

    @property
    def target(self) -> Target:
        """The target as goals use it."""
        if self.words:
            return Target(self.text, self.words[0], whole_word(*self.words))
        return Target(self.text, self.witness, self.pattern)


def _around_target(wording: str) -> str:
    if "{target}" not in wording:
        raise ValueError("a wording holds {target}")
    return wording


class GoalFile(DataFile):
    """The form of a kind's file; `GoalKind` says what its keys mean."""

    wordings: dict[Phrasing, tuple[Annotated[str, AfterValidator(_around_target)], ...]]
    targets: dict[Split, tuple[TargetEntry, ...]]


def __getattr__(name: str) -> GoalKind:
    if name not in GOAL_KINDS.entries:
        raise AttributeError(name)
    return _kind(name)


@cache
def _kind(name: str) -> GoalKind:
    read = read_table(files(__name__).joinpath(f"{name}.toml"), GoalFile)
    targets = {split: tuple(e.target for e in entries) for split, entries in read.targets.items()}
    return GoalKind(read.wordings, targets)
