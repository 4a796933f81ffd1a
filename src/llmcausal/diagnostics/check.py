"""The result of one check, and of all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["pass", "warning", "fail"]
SCHEMA_TITLE = "What `llmcausal doctor --json` prints"


@dataclass(frozen=True)
class DoctorCheck:
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


@dataclass(frozen=True)
class DoctorReport:
    """All checks of a profile on a machine.

    Attributes:
        profile: As it was named.
        ok: Whether no check failed; the exit code is 0, else 1.
        checks: In the order in which they ran.
    """

    profile: str
    ok: bool
    checks: list[DoctorCheck]


def json_schema() -> dict[str, Any]:
    """Returns the JSON schema of the report; every field is always there and no other is."""
    from pydantic import TypeAdapter

    schema = TypeAdapter(DoctorReport).json_schema(mode="serialization")
    schema["title"] = SCHEMA_TITLE
    for part in (schema, *schema["$defs"].values()):
        part["required"] = list(part["properties"])
        part["additionalProperties"] = False
    return schema


def one_line(text: str) -> str:
    """Returns a text with its line breaks and runs of spaces made single spaces."""
    return " ".join(text.split())
