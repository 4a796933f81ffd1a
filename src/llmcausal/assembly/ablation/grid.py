"""`--vary` texts to the combinations they ask for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from pydantic import BaseModel

from llmcausal.config import RunConfig
from llmcausal.errors import UsageError
from llmcausal.registry import nearest

FREE_TABLES = ("loss.options.",)
FIXED = {
    "name": "the runs are named by what varies",
    "output_dir": "give --output-dir",
    "evaluation.": "all runs must be evaluated alike to be compared",
    "data.test": "all runs must be evaluated on the same prompts to be compared",
    "data.builtin.test": "all runs must be evaluated on the same prompts to be compared",
    "data.builtin.seed": "it changes the test prompts too; --seeds repeats the training",
    "model.": "the untouched base is one row of the table; make one ablation for each model",
}
"""Settings that cannot vary, by the start of their names, and why."""


@dataclass(frozen=True)
class Axis:
    """Settings that vary together.

    Attributes:
        keys: Dotted names.
        values: What they are set to, one text for each key, as after `--set key=`.
    """

    keys: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]

    @property
    def name(self) -> str:
        """The keys as they were given."""
        return ",".join(self.keys)

    @property
    def choices(self) -> list[str]:
        """The values as they were given."""
        return [":".join(value) for value in self.values]


@dataclass(frozen=True)
class Combination:
    """One choice from every axis.

    Attributes:
        number: From 1, in the order of the grid.
        label: Names it in tables.
        choices: What was chosen from each axis, as in `Axis.choices`.
        settings: Dotted name to value, as after `--set`.
    """

    number: int
    label: str
    choices: tuple[str, ...]
    settings: dict[str, str]

    @property
    def overrides(self) -> list[str]:
        """The settings as `--set` takes them."""
        return [f"{key}={value}" for key, value in self.settings.items()]


def parse_axis(text: str) -> Axis:
    """Reads `KEY=V1,V2` or, for settings that vary together, `K1,K2=V1:W1,V2:W2`.

    Separators within quotes and brackets belong to the value.

    Raises:
        UsageError: If it is written otherwise, or a setting is unknown or cannot vary.
    """
    left, separator, right = text.partition("=")
    keys = tuple(key.strip() for key in left.split(","))
    if not separator or not all(keys) or not right.strip():
        raise UsageError(
            f"--vary {text}: write it as section.key=value,value or, for settings that vary "
            "together, as key,key=value:value,value:value"
        )
    for key in keys:
        _require_variable(key)
    values = []
    for item in _split(right, ","):
        parts = tuple(_split(item, ":")) if len(keys) > 1 else (item,)
        if len(parts) != len(keys) or not all(parts):
            raise UsageError(
                f"--vary {text}: {item!r} has {len(parts)} values for {len(keys)} settings"
            )
        values.append(parts)
    return Axis(keys, tuple(values))


def combine(axes: Sequence[Axis]) -> list[Combination]:
    """Returns every combination of the axes, the last axis changing fastest.

    Raises:
        UsageError: If a setting varies in two axes, or a value is given twice.
    """
    keys = [key for axis in axes for key in axis.keys]
    if twice := [key for key, count in Counter(keys).items() if count > 1]:
        raise UsageError(f"--vary: {twice[0]} is varied twice; give all its values in one place")
    for axis in axes:
        if twice := [value for value, count in Counter(axis.choices).items() if count > 1]:
            raise UsageError(f"--vary {axis.name}: the value {twice[0]} is given twice")
    names = _short_names(keys)
    combinations = []
    for number, chosen in enumerate(product(*(axis.values for axis in axes)), start=1):
        settings = {
            key: value
            for axis, values in zip(axes, chosen, strict=True)
            for key, value in zip(axis.keys, values, strict=True)
        }
        label = ", ".join(f"{names[key]}={value}" for key, value in settings.items())
        choices = tuple(":".join(values) for values in chosen)
        combinations.append(Combination(number, label, choices, settings))
    return combinations


def _short_names(keys: Sequence[str]) -> dict[str, str]:
    last = Counter(key.rpartition(".")[2] for key in keys)
    return {key: short if last[short := key.rpartition(".")[2]] == 1 else key for key in keys}


def _require_variable(key: str) -> None:
    known = _dotted_names(RunConfig)
    if key not in known and not key.startswith(FREE_TABLES):
        raise UsageError(f"--vary {key}: unknown setting{nearest(key, known)}")
    for start, reason in FIXED.items():
        if key.startswith(start):
            raise UsageError(f"--vary {key}: this cannot vary: {reason}")


def _dotted_names(section: type[BaseModel], prefix: str = "") -> list[str]:
    names = []
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names += _dotted_names(kind, f"{prefix}{name}.")
        else:
            names.append(prefix + name)
    return names


def _split(text: str, separator: str) -> list[str]:
    """Splits at separators outside quotes and brackets."""
    parts, depth, quote = [""], 0, ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in "[{":
            depth += 1
        elif char in "]}":
            depth -= 1
        elif char == separator and depth == 0:
            parts.append("")
            continue
        parts[-1] += char
    return [part.strip() for part in parts]
