"""Lazy tables of `"module:Class"` strings, one per kind of part that users may extend."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from llmcausal.errors import ConfigError


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns `; did you mean X?` with the known name closest to `name`, or an empty string."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {matches[0]}?" if matches else ""


def suggestion(name: str, known: Iterable[str]) -> str:
    """Returns what `nearest` does, and all known names: the end of a message on an unknown name."""
    return f"{nearest(name, known)} (known: {', '.join(known)})"


@dataclass(frozen=True)
class Table:
    """The members of one kind of part, each as `"module:attribute"`; only `load` imports them."""

    family: str
    entries: Mapping[str, str]

    def load(self, name: str) -> Any:
        """Imports a member by name, or a user's part by its `module:attribute`."""
        target = self.entries.get(name, name)
        module_name, separator, attribute = target.partition(":")
        if not separator:
            known = ", ".join(self.entries)
            raise ConfigError(
                f"unknown {self.family} {name!r}{nearest(name, self.entries) or '.'} "
                f"Known: {known}; or your own as module:Class"
            )
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise ConfigError(
                f"{self.family} {name!r}: cannot import {module_name!r}: {error}. "
                "Is its folder on PYTHONPATH?"
            ) from error
        if not hasattr(module, attribute):
            hint = nearest(attribute, dir(module))
            raise ConfigError(f"{self.family} {name!r}: {module_name} has no {attribute!r}{hint}")
        return getattr(module, attribute)
