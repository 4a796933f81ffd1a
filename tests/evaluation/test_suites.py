from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmcausal.config import BuiltinDataSection, DataSection
from llmcausal.errors import ConfigError, UsageError
from llmcausal.evaluation.suites import SUITES


def test_builtin_makes_the_test_split() -> None:
    from llmcausal.data.builtin import generate

    data = DataSection(builtin=BuiltinDataSection(test=7, seed=3))
    triplets = SUITES.load("builtin")(data)
    assert triplets == generate("test", 7, 3)
    assert len(triplets) == 7
    assert all(t.attack and t.attack.witness and t.check for t in triplets)


def test_file(tmp_path: Path) -> None:
    row = {
        "id": "a",
        "system": "s",
        "benign": "b",
        "benign_cf": "c",
        "injection": "i",
        "response": "r",
    }
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    triplets = SUITES.load("file")(DataSection(test=str(path)))
    assert [triplet.id for triplet in triplets] == ["a"]
    with pytest.raises(UsageError, match="--data"):
        SUITES.load("file")(DataSection(test="builtin"))


def test_unknown_suite_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="builtin, file"):
        SUITES.load("bipia")
