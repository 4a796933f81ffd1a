"""Reads parts of files that may hold anything: what is not of the expected shape is empty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Object = Mapping[str, Any]


def as_object(raw: object) -> Object:
    """Returns a mapping as it is, anything else as an empty one."""
    return raw if isinstance(raw, Mapping) else {}


def as_objects(raw: object) -> list[Object]:
    """Returns the mappings of a list; nothing of anything else."""
    return [item for item in raw if isinstance(item, Mapping)] if isinstance(raw, list) else []


def as_texts(raw: object) -> list[str]:
    """Returns the entries of a list as text; nothing of anything else."""
    return [str(item) for item in raw] if isinstance(raw, list) else []
