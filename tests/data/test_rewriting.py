from __future__ import annotations

from dataclasses import replace

import pytest

from llmcausal.data.sources.example import SourceExample, Unusable, answer_check
from llmcausal.data.sources.rewriting import checked_rewriting

EXAMPLE = SourceExample(
    where="f:1",
    id="f-1",
    system="Answer.",
    document="The parcel of 2024-03-18 came on Monday for Anna. It holds 12 plates at 3.50 each.",
    question="Who gets it?",
    response="Anna",
    check=answer_check(["Anna"]),
)
SOUND = "On Monday, 2024-03-18, a parcel for Anna arrived. In it are 12 plates, each at 3.50."


def test_other_words_with_the_same_facts_are_kept() -> None:
    assert checked_rewriting(EXAMPLE, SOUND, ended=True) == SOUND


@pytest.mark.parametrize(
    ("rewritten", "ended", "reason"),
    [
        (SOUND, False, "did not finish"),
        ("", True, "no new wording"),
        (EXAMPLE.document.upper().replace(".", " . "), True, "no new wording"),
        ("Anna got 12 plates.", True, "far shorter or longer"),
        (SOUND * 3, True, "far shorter or longer"),
        (SOUND.replace("12", "13"), True, "other numbers"),
        (SOUND.replace(" 12 ", " many "), True, "other numbers"),
        (SOUND + " Call 112.", True, "other numbers"),
        (SOUND.replace("Anna", "Hanna"), True, "lost the answer"),
    ],
)
def test_what_may_say_something_else_is_left_out(rewritten: str, ended: bool, reason: str) -> None:
    with pytest.raises(Unusable, match=reason):
        checked_rewriting(EXAMPLE, rewritten, ended=ended)


def test_an_answer_that_is_not_in_the_text_need_not_be_in_the_other() -> None:
    computed = replace(EXAMPLE, response="42", check=answer_check(["42"]))
    assert checked_rewriting(computed, SOUND, ended=True) == SOUND
