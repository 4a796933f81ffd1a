"""Data files are checked against their form; an error names the file, line and key."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcausal.attacks import FAMILIES
from llmcausal.attacks.goals import GoalKind
from llmcausal.attacks.phrased import FamilyFile
from llmcausal.data.scenarios import read_theme
from llmcausal.data_files import places, read_table
from llmcausal.errors import DataError

GOOD = '''# A theme.

[[scenario]]
id = "a"
category = "x"
split = "train"
system = "Answer."
documents = ["{person} came.", """
[[scenario]]
split = "nobody"
{person} left."""]
question = "Who?"
answer = "{person}"
response = "{person}"

[[scenario]]
id = "b"
category = "x"
split = "test"
system = "Answer."
documents = ["The {thing} is {color}.", "{color} is the {thing}."]
question = "Which color?"
answer = "{color}"
response = "{color}"

[scenario.slots]
thing = ["car", "door"]
color = ["red", "blue"]

[[scenario.cases]]
word = "x"

[[scenario.cases]]
word = ["y", "z"]
'''


def read(tmp_path: Path, text: str) -> list[str]:
    """Reads a theme; returns its defects."""
    path = tmp_path / "theme.toml"
    path.write_text(text)
    try:
        read_theme(path)
    except DataError as error:
        return [defect.removeprefix(str(path)) for defect in error.defects]
    return []


def test_a_theme_is_read(tmp_path: Path) -> None:
    path = tmp_path / "theme.toml"
    path.write_text(GOOD)
    first, second = read_theme(path)
    assert first.documents[1] == '[[scenario]]\nsplit = "nobody"\n{person} left.'
    assert second.slots == {"thing": ("car", "door"), "color": ("red", "blue")}
    assert second.cases == ({"word": "x"}, {"word": ("y", "z")})


@pytest.mark.parametrize(
    ("old", "new", "defect"),
    [
        ('split = "test"', 'split = "tset"', ":19: scenario.1.split: "),
        ('word = ["y", "z"]', "word = 3", ":34: scenario.1.cases.1.word"),
        ('color = ["red", "blue"]', "color = 7", ":28: scenario.1.slots.color: "),
        ('question = "Which color?"', 'asks = "x"', ":22: scenario.1.asks: unknown key"),
        ("The {thing} is", "The {thin} is", ":16: scenario.1: b: {thin} has no values"),
        ('["The {thing} is {color}.", ', "[", ":16: scenario.1: b: documents needs at least two"),
        ("[scenario.slots]", "[scenario.slots", ": not valid TOML: "),
    ],
)
def test_a_mistake_is_told_where_it_is(tmp_path: Path, old: str, new: str, defect: str) -> None:
    assert GOOD.count(old) == 1
    found = read(tmp_path, GOOD.replace(old, new))
    assert any(each.startswith(defect) for each in found), found


def test_every_mistake_is_told(tmp_path: Path) -> None:
    wrong = GOOD.replace('split = "train"', "split = 1").replace('answer = "{color}"', "answer = 2")
    assert [each.split(": ")[0] for each in read(tmp_path, wrong)] == [":6", ":23"]


def test_a_phrasing_holds_the_instruction_once(tmp_path: Path) -> None:
    path = tmp_path / "family.toml"
    path.write_text('difficulty = "easy"\nheld_out_phrasings = ["Do it.", "{instruction}"]\n')
    with pytest.raises(DataError, match=r"family\.toml:2: held_out_phrasings\.0: .*exactly once"):
        read_table(path, FamilyFile)


@pytest.mark.parametrize(
    ("target", "defect"),
    [
        ('{ text = "x" }', "give a witness or words"),
        ('{ text = "x", witness = "a", words = ["b"] }', "give a witness or words"),
        ('{ text = "x", wittness = "a" }', "unknown key"),
    ],
)
def test_a_target_can_be_proved(tmp_path: Path, target: str, defect: str) -> None:
    path = tmp_path / "goal.toml"
    path.write_text(f'[wordings]\ntrain = ["Say {{target}}"]\n[targets]\ntrain = [\n{target}\n]\n')
    with pytest.raises(DataError, match=rf"goal\.toml:4: targets\.train\.0.*{defect}"):
        read_table(path, GoalKind)


def test_a_family_without_a_file_is_none() -> None:
    with pytest.raises(Exception, match="no 'nobody'"):
        FAMILIES.load("llmcausal.attacks.phrased:nobody")


KEYS = st.sampled_from(["a", "b", "c"])


@given(st.lists(st.tuples(KEYS, st.text("ab=[]\n", max_size=12)), unique_by=lambda pair: pair[0]))
def test_keys_are_found_whatever_the_texts_between_them_look_like(
    entries: list[tuple[str, str]],
) -> None:
    text = "".join(f'{key} = """\n{value}"""\n' for key, value in entries)
    found = {place: number for number, place in places(text)}
    lines = text.splitlines()
    assert list(found) == [(key,) for key, _ in entries]
    assert all(lines[number - 1].startswith(f"{key} = ") for (key,), number in found.items())
