from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmcausal.config import BuiltinDataSection, DataSection
from llmcausal.errors import ConfigError, UsageError
from llmcausal.evaluation.suites import SUITES


def test_builtin_makes_the_test_split() -> None:
    from llmcausal.data.builtin import generate

    data = DataSection(builtin=BuiltinDataSection(test=7, test_seen=5, seed=3))
    triplets = SUITES.load("builtin")(data, [])
    assert triplets[:7] == generate("test", 7, 3)
    assert len(triplets) == 12
    assert all(t.attack and t.check for t in triplets)
    assert [t.attack.novelty == "seen" for t in triplets if t.attack] == [False] * 7 + [True] * 5
    assert len({t.id for t in triplets}) == 12


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
    triplets = SUITES.load("file")(DataSection(test=str(path)), [])
    assert [triplet.id for triplet in triplets] == ["a"]
    with pytest.raises(UsageError, match="--data"):
        SUITES.load("file")(DataSection(test="builtin"), [])


def test_unknown_suite_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"did you mean bipia.*builtin, natural, file"):
        SUITES.load("bipa")
