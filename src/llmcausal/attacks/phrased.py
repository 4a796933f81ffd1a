"""Families as data files: `phrased:authority` in the families' table is `families/authority.toml`.

A family with code is a class that takes its other attributes `from_file`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, ValidationInfo

from llmcausal.attacks.base import AttackFamily, Difficulty
from llmcausal.data_files import DataFile, read_table

T = TypeVar("T", bound=AttackFamily)


def _with_slots(phrasing: str, info: ValidationInfo) -> str:
    slots = [f"{{{slot}}}" for slot in info.data.get("slots", ())]
    if any(phrasing.count(slot) != 1 for slot in slots):
        raise ValueError(f"a phrasing holds {' and '.join(slots)} exactly once")
    return phrasing


Phrasings = tuple[Annotated[str, AfterValidator(_with_slots)], ...]


class FamilyFile(DataFile):
    """The form of a family's file; `AttackFamily` explains the keys."""

    difficulty: Difficulty
    held_out: bool = False
    slots: tuple[str, ...] = AttackFamily.slots
    joiners: tuple[str, ...] = AttackFamily.joiners
    texts: Mapping[str, tuple[str, ...]] = AttackFamily.texts
    train_phrasings: Phrasings = ()
    validation_phrasings: Phrasings = ()
    held_out_phrasings: Phrasings


def __getattr__(name: str) -> type[AttackFamily]:
    if not files(__package__).joinpath("families", f"{name}.toml").is_file():
        raise AttributeError(name)
    return _family(name)


@cache
def _family(name: str) -> type[AttackFamily]:
    return type(name, (AttackFamily,), _attributes(name))


def from_file(name: str) -> Callable[[type[T]], type[T]]:
    """Sets the attributes of a class from the file of a family."""

    def decorate(family: type[T]) -> type[T]:
        for key, value in _attributes(name).items():
            setattr(family, key, value)
        return family

    return decorate


def _attributes(name: str) -> dict[str, Any]:
    read = read_table(files(__package__).joinpath("families", f"{name}.toml"), FamilyFile)
    return {"name": name, **{key: getattr(read, key) for key in FamilyFile.model_fields}}
