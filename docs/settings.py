"""Writes docs/settings.md from the settings and their docstrings; with --check only compares."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any, Literal, Union, get_args, get_origin

from generated import cell, publish
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from llmcausal.config import RunConfig
from llmcausal.profile import shipped_profiles

HEADING = """\
# Settings

<!-- Made by docs/settings.py from config.py; change the docstrings there and run `make schema`. -->

A profile is a TOML file with these keys; each key has a default. The first part of a key's name is
its section: `train.epochs` is `epochs` under `[train]`. On the command line, `--set train.epochs=1`
changes a key. An unknown key is an error; the message names the nearest known key. Editors complete
keys from [the JSON schema](config.schema.json): put `#:schema PATH/config.schema.json` in the first
line.

## Shipped profiles

| profile | model | purpose |
|---|---|---|
"""


def main(arguments: list[str]) -> int:
    profiles = [_profile(name, path.read_text("utf-8")) for name, path in _sorted_profiles()]
    text = HEADING + "\n".join([*profiles, "", *_section(RunConfig, "")])
    return publish("settings.md", text + "\n", arguments)


def _sorted_profiles() -> list[tuple[str, Any]]:
    return sorted(shipped_profiles().items())


def _profile(name: str, text: str) -> str:
    """Takes what it is for from the profile's first comment, up to the first sentence's end."""
    comment = re.findall(r"^# (.*)$", text, re.MULTILINE)
    sentence = re.split(r"(?<=[.;:])\s", " ".join(comment))[0].rstrip(".;:")
    model = tomllib.loads(text)["model"]["name"]
    return f"| `{name}` | `{model}` | {cell(sentence)} |"


def _section(section: type[BaseModel], prefix: str) -> Iterator[str]:
    fields = section.model_fields
    own = {name: field for name, field in fields.items() if not _is_section(field)}
    title = f"[{prefix.removesuffix('.')}]" if prefix else "Without a section"
    yield from [f"## {title}", "", _whole(section), ""]
    yield from ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, field in own.items():
        shown = [f"`{prefix}{name}`", _type(field.annotation) + _bounds(field), _default(field)]
        yield f"| {' | '.join(map(cell, shown))} | {cell(_whole(field))} |"
    yield ""
    for name, field in fields.items():
        if _is_section(field):
            assert isinstance(field.annotation, type)
            yield from _section(field.annotation, f"{prefix}{name}.")


def _whole(described: Any) -> str:
    """Returns a docstring on one line, or fails: every setting has one."""
    text = getattr(described, "description", None) or described.__doc__
    return " ".join(text.split())


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _type(annotation: Any) -> str:
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if get_origin(annotation) is tuple:
        if arguments[-1] is Ellipsis:
            return f"list of {_type(arguments[0])}"
        return f"{len(arguments)} x {_type(arguments[0])}"
    if arguments and get_origin(annotation) is not dict:
        assert get_origin(annotation) in (Union, type(int | None))
        return " or ".join(_type(part) for part in arguments if part is not type(None))
    if get_origin(annotation) is dict:
        return "table"
    if issubclass(annotation, PurePath):
        return "path"
    return {str: "text", bool: "true or false", int: "whole number", float: "number"}[annotation]


def _bounds(field: FieldInfo) -> str:
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    bounds = [
        f"{word} {getattr(rule, name):g}"
        for rule in field.metadata
        for name, word in words.items()
        if getattr(rule, name, None) is not None
    ]
    return f", {' and '.join(bounds)}" if bounds else ""


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(_toml(item) for item in value)}]`"
    return f"`{_toml(value)}`"


def _toml(value: Any) -> str:
    return f'"{value}"' if isinstance(value, (str, PurePath)) else str(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
