from __future__ import annotations

import importlib
import json
import pkgutil
from collections import OrderedDict

import pytest

import llmcausal
from llmcausal.errors import ConfigError
from llmcausal.registry import Table, nearest

TABLE = Table("container", {"ordered": "collections:OrderedDict", "gone": "no_such_module:X"})


def test_loads_by_name_and_by_path() -> None:
    assert TABLE.load("ordered") is OrderedDict
    assert TABLE.load("json:JSONDecoder") is json.JSONDecoder


def test_unknown_name_tells_the_nearest_and_all() -> None:
    with pytest.raises(ConfigError, match="unknown container 'orderd'; did you mean ordered") as e:
        TABLE.load("orderd")
    assert "Known: ordered, gone" in str(e.value)


def test_missing_module_says_which() -> None:
    with pytest.raises(ConfigError, match="container 'gone': cannot import 'no_such_module'"):
        TABLE.load("gone")


def test_missing_attribute_tells_the_nearest() -> None:
    with pytest.raises(ConfigError, match="json has no 'JSONDecodr'; did you mean JSONDecoder"):
        TABLE.load("json:JSONDecodr")


def test_nearest_is_silent_about_nothing_close() -> None:
    assert nearest("zebra", ["train", "resume"]) == ""


def _tables() -> list[tuple[str, Table]]:
    found = []
    for module in pkgutil.walk_packages(llmcausal.__path__, "llmcausal."):
        if module.ispkg:
            members = vars(importlib.import_module(module.name))
            found += [(module.name, m) for m in members.values() if isinstance(m, Table)]
    return found


@pytest.mark.parametrize(
    ("table", "name"),
    [pytest.param(t, n, id=f"{package}:{n}") for package, t in _tables() for n in t.entries],
)
def test_every_line_of_every_table_loads(table: Table, name: str) -> None:
    assert table.load(name) is not None
