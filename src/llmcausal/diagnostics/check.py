"""The input and the result of a check, and the report of all checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from llmcausal.config import RunConfig
from llmcausal.diagnostics.machine import Gpu, Machine

Status = Literal["pass", "warning", "fail"]


@dataclass(frozen=True)
class DoctorCheck:
    """One check's result.

    Attributes:
        name: What was checked, in a word or two.
        status: `fail` means that a run would not work, `warning` that it would work badly.
        detail: What was found, on one line.
        fix: How to fix it; empty on `pass`.
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
    """Returns the JSON schema of the report, with all fields required and no others allowed."""
    from pydantic import TypeAdapter

    schema = TypeAdapter(DoctorReport).json_schema(mode="serialization")
    schema["title"] = "What `llmcausal doctor --json` prints"
    for part in (schema, *schema["$defs"].values()):
        part["required"] = list(part["properties"])
        part["additionalProperties"] = False
    return schema


class Finding(NamedTuple):
    """A `DoctorCheck` without its name, which `CHECKS` has."""

    status: Status
    detail: str
    fix: str = ""


def passed(detail: str) -> Finding:
    return Finding("pass", detail)


def warning(detail: str, fix: str) -> Finding:
    return Finding("warning", detail, fix)


def failed(detail: str, fix: str) -> Finding:
    return Finding("fail", detail, fix)


@dataclass(frozen=True)
class StrategyNeed:
    """A profile's predicted memory under one strategy."""

    name: str
    needed_bytes: int  # on the GPU, the CUDA context included
    host_bytes: int  # on the host, besides the program itself


@dataclass(frozen=True)
class ProfileNeed:
    """A shipped profile's predicted memory for the longest triplets that it allows."""

    profile: str
    model: str
    tokens: int  # of each member
    strategies: tuple[StrategyNeed, ...]  # fastest first

    def first_fitting(self, free_bytes: int, host_bytes: int) -> StrategyNeed | None:
        """Returns the fastest strategy within the GPU's and the host's free memory."""
        for need in self.strategies:
            if need.needed_bytes <= free_bytes and need.host_bytes <= host_bytes:
                return need
        return None


@dataclass(frozen=True)
class ModelSize:
    """The number of a model's parameters, and the size of one of the profile's checkpoints."""

    parameters: int
    checkpoint_bytes: int


@dataclass(frozen=True)
class Facts:
    """A check's input; checks also read files."""

    config: RunConfig
    machine: Machine
    shipped: tuple[ProfileNeed, ...] = ()  # predictions for the shipped profiles
    own: ProfileNeed | None = None  # the prediction for this profile, if there is one
    # Returns the model's size; None if that needs a network.
    size: Callable[[], ModelSize | None] = lambda: None

    @property
    def gpu(self) -> Gpu | None:
        """The GPU that training would use."""
        return None if self.config.model.device == "cpu" else self.machine.gpu
