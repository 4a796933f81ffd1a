"""Families as data files: `phrased:authority` in the families' table is `families/authority.toml`.

A family with code is a class that takes its other attributes `from_file`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Annotated, TypeVar

from pydantic import AfterValidator, ValidationInfo

from llmcausal.attacks.base import AttackFamily, Difficulty
from llmcausal.data_files import DataFile, read_table

T = TypeVar("T", bound=AttackFamily)
_FILES = files(__package__).joinpath("families")


def _with_slots(phrasing: str, info: ValidationInfo) -> str:
    slots = [f"{{{slot}}}" for slot in info.data.get("slots", ())]
    if any(phrasing.count(slot) != 1 for slot in slots):
        raise ValueError(f"a phrasing holds {' and '.join(slots)} exactly once")
    return phrasing


Phrasings = tuple[Annotated[str, AfterValidator(_with_slots)], ...]


class FamilyFile(DataFile):
    """The keys of a family's file; `AttackFamily` explains them."""

    difficulty: Difficulty
    held_out: bool = False
    slots: tuple[str, ...] = AttackFamily.slots
    joiners: tuple[str, ...] = AttackFamily.joiners
    texts: Mapping[str, tuple[str, ...]] = AttackFamily.texts
    train_phrasings: Phrasings = ()
    validation_phrasings: Phrasings = ()
    held_out_phrasings: Phrasings


@cache
def __getattr__(name: str) -> type[AttackFamily]:
    if not _FILES.joinpath(f"{name}.toml").is_file():
        raise AttributeError(name)
    return from_file(name)(type(name, (AttackFamily,), {}))


def from_file(name: str) -> Callable[[type[T]], type[T]]:
    """Sets a class's attributes from the file of a family."""

    def decorate(family: type[T]) -> type[T]:
        read = read_table(_FILES.joinpath(f"{name}.toml"), FamilyFile)
        family.name = name
        for key in FamilyFile.model_fields:
            setattr(family, key, getattr(read, key))
        return family

    return decorate
