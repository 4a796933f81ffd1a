"""The result of one check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["pass", "warning", "fail"]


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        name: What was checked, in a word or two.
        status: `fail` means that a run would not work, `warning` that it would work badly.
        detail: What was found, on one line.
        fix: What to do about it; empty on `pass`.
    """

    name: str
    status: Status
    detail: str
    fix: str = ""
