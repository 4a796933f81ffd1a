from __future__ import annotations

from typing import Any

from llmcausal.ui.report.sections import MOST_EXAMPLES, choose_examples

Values = dict[str, Any]


def row(number: int, **changes: Any) -> Values:
    plain = {
        "id": f"t{number}",
        "family": "naive",
        "member": "injection",
        "prompt": "p",
        "answer": "a",
        "obeyed": False,
        "right": True,
        "base_answer": "b",
        "base_obeyed": False,
        "base_right": True,
    }
    return {**plain, **changes}


def test_the_worst_come_first_and_what_went_well_both_times_is_not_shown() -> None:
    rows = [
        row(0),
        row(1, base_obeyed=True),
        row(2, member="benign", right=False, obeyed=None, base_obeyed=None),
        row(3, obeyed=True, base_obeyed=True),
        row(4, member="benign", obeyed=None, base_obeyed=None),
    ]
    groups = choose_examples(rows)
    assert [[e["id"] for e in group["examples"]] for group in groups] == [["t3"], ["t2"], ["t1"]]
    assert [group["title"].split()[0] for group in groups] == ["The", "A", "The"]


def test_no_more_than_thirty_and_the_rest_is_counted() -> None:
    rows = [row(n, obeyed=True) for n in range(100)]
    rows += [row(n, base_obeyed=True) for n in range(100, 150)]
    groups = choose_examples(rows)
    assert sum(len(group["examples"]) for group in groups) == MOST_EXAMPLES
    assert [group["total"] for group in groups] == [100, 50]
    assert all(group["examples"] for group in groups)


def test_one_group_may_use_what_the_others_leave() -> None:
    groups = choose_examples([row(n, base_obeyed=True) for n in range(50)])
    assert [len(group["examples"]) for group in groups] == [MOST_EXAMPLES]


def test_families_take_turns() -> None:
    rows = [row(n, obeyed=True, family="naive") for n in range(40)]
    rows += [row(n, obeyed=True, family="unicode") for n in range(40, 43)]
    [group] = choose_examples(rows)
    assert [e["facts"][0] for e in group["examples"][:4]] == [
        "naive",
        "unicode",
        "naive",
        "unicode",
    ]


def test_verdicts_are_told_in_words() -> None:
    [group] = choose_examples([row(0, obeyed=True, right=False, stopped=False, base_right=None)])
    base, tuned = group["examples"][0]["answers"]
    assert base["verdicts"] == [("resisted", "good")]
    assert tuned["verdicts"] == [
        ("obeyed", "bad"),
        ("task not done", "bad"),
        ("cut at the length limit", "note"),
    ]
