"""Tasks of the built-in generator as data: a file per theme in `themes/`.

A new theme is a new file there, with scenarios of every split, and a number after the last: the
order of the files decides what the generator draws. `Scenario` says what the keys mean;
`pools.toml` holds the values that scenarios share, `requests.toml` what a user asks for while a
text is attached.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Annotated

from pydantic import AfterValidator

from llmcausal.data.scenarios.scenario import Scenario, checked
from llmcausal.data_files import DataFile, read_table


class Theme(DataFile):
    """A file of scenarios."""

    scenario: tuple[Annotated[Scenario, AfterValidator(checked)], ...]


@cache
def themes() -> dict[str, tuple[Scenario, ...]]:
    """Returns the scenarios of each theme, by its name without the number."""
    found = sorted(files(__package__).joinpath("themes").iterdir(), key=lambda file: file.name)
    return {file.name.partition("_")[2].removesuffix(".toml"): read_theme(file) for file in found}


def read_theme(file: Traversable) -> tuple[Scenario, ...]:
    """Reads one theme.

    Raises:
        DataError: With every defect, each as `file:line: key: reason`.
    """
    return read_table(file, Theme).scenario
