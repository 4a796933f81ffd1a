"""Families that only wrap the instruction in words: one data file each, in `families/`.

A family is an attribute of this module, so that the table of families can name it:
`llmcausal.attacks.phrased:authority` is `families/authority.toml`.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Annotated

from pydantic import AfterValidator

from llmcausal.attacks.base import AttackFamily, Difficulty
from llmcausal.data_files import DataFile, read_table


def _with_instruction(phrasing: str) -> str:
    if phrasing.count("{instruction}") != 1:
        raise ValueError("a phrasing holds {instruction} exactly once")
    return phrasing


Phrasings = tuple[Annotated[str, AfterValidator(_with_instruction)], ...]


class FamilyFile(DataFile):
    """The form of a family's file; `AttackFamily` says what its keys mean."""

    difficulty: Difficulty
    held_out: bool = False
    joiners: tuple[str, ...] = AttackFamily.joiners
    train_phrasings: Phrasings = ()
    validation_phrasings: Phrasings = ()
    held_out_phrasings: Phrasings


def __getattr__(name: str) -> type[AttackFamily]:
    if not files(__package__).joinpath("families", f"{name}.toml").is_file():
        raise AttributeError(name)
    return _family(name)


@cache
def _family(name: str) -> type[AttackFamily]:
    read = read_table(files(__package__).joinpath("families", f"{name}.toml"), FamilyFile)
    attributes = {key: getattr(read, key) for key in FamilyFile.model_fields}
    return type(name, (AttackFamily,), {"name": name, **attributes})
