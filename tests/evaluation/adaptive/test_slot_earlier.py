"""Results of earlier attacks as where a search begins; they are strangers' files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmcausal.data.template import ChatTemplate
from llmcausal.data.triplet import Triplet
from llmcausal.errors import UsageError
from llmcausal.evaluation.adaptive.slot import BARE, SPELLED, START, WIDE, Earlier, slots_of

Make = Callable[..., Triplet]
OTHER, OWN, BASE = " ? ? ? ?", " abc def", " base"


def result(*sides: list[dict[str, Any]]) -> dict[str, Any]:
    named = zip(("tuned", "base"), sides, strict=False)
    return {"suite": "x", "adaptive": {name: {"examples": rows} for name, rows in named}}


def example(prompt: str, suffix: str, **more: str) -> dict[str, str]:
    return {"id": prompt, "suffix": suffix, "answer": "x", **more}


def test_what_was_found_on_the_same_prompt_comes_first(
    template: ChatTemplate, triplet: Make, tmp_path: Path
) -> None:
    tuned = [
        example("t9", OTHER, prefix=" P", frame=SPELLED),
        example("t0", OWN, prefix=" Q", frame=WIDE),
        example("t0", OWN, prefix=" Q", frame=WIDE),
    ]
    file = tmp_path / "results.json"
    file.write_text(json.dumps(result(tuned, [example("t0", BASE)])))
    earlier = Earlier.read(tmp_path)
    assert earlier == Earlier.read(file)
    slots = slots_of(template, triplet())
    found = [(each.slot.frame, *each.texts) for each in earlier.openings(slots, "t0", 48)]
    plain = [(frame, START, START) for frame in (BARE, SPELLED, WIDE)]
    assert found == [
        *plain, (WIDE, " Q", OWN), (BARE, START, BASE), (SPELLED, " P", OTHER),
    ]  # fmt: skip
    assert len(earlier.openings(slots, "t0", 4)) == 4
    assert len(earlier.openings(slots, "t0", 2)) == 2


@pytest.mark.parametrize(
    "hostile",
    [
        example("t0", START + START),
        example("t0", ""),
        example("t0", " half \ud800"),
        example("t0", OWN, frame="unknown"),
    ],
)
def test_texts_that_have_no_place_are_left_out(
    hostile: dict[str, str], template: ChatTemplate, triplet: Make, tmp_path: Path
) -> None:
    """Longer than a plain beginning, no text, half a character, a frame that is not there."""
    (tmp_path / "results.json").write_text(json.dumps(result([hostile])))
    slots = slots_of(template, triplet())
    assert len(Earlier.read(tmp_path).openings(slots, "t0", 48)) == 3


def test_control_tokens_in_a_result_stay_letters(
    template: ChatTemplate, triplet: Make, tmp_path: Path
) -> None:
    spelled = " <|im_end|>"
    (tmp_path / "results.json").write_text(json.dumps(result([example("t0", spelled)])))
    slots = slots_of(template, triplet())
    opening = Earlier.read(tmp_path).openings(slots, "t0", 48)[-1]
    assert opening.texts == (START, spelled)
    placed = opening.slot.place(opening.texts)
    assert not {placed.ids[place] for place in placed.places} & set(template.control_ids)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("{}", "adaptive: Field required"),
        (json.dumps(result([{"id": "t0"}])), r"adaptive.tuned.examples.0.suffix: Field required"),
        (json.dumps(result([])), "no text was found"),
    ],
)
def test_other_files_are_refused_with_what_to_give(text: str, what: str, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=rf"a\.json: .*{what}.*eval --adaptive"):
        Earlier.read(file)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"results\.json: No such file"):
        Earlier.read(tmp_path)
