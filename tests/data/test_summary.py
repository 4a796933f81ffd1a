from __future__ import annotations

from llmcausal.data.summary import Lengths, summarize
from llmcausal.data.triplet import AttackInfo, Check, Triplet


def _triplet(number: int, **fields: object) -> Triplet:
    values: dict[str, object] = {
        "id": str(number),
        "system": "s" * 4,
        "benign": "b" * number,
        "benign_cf": "c",
        "injection": "i",
        "response": "r" * 3,
        **fields,
    }
    return Triplet(**values)  # type: ignore[arg-type]


def test_counts_are_most_frequent_first_and_lengths_in_characters() -> None:
    summary = summarize(
        [
            _triplet(1, category="email", attack=AttackInfo("naive", witness="W")),
            _triplet(2, category="code", attack=AttackInfo("naive")),
            _triplet(10, category="code", response_injection="longer", context="cc"),
            _triplet(4, check=Check("exact", "r")),
        ]
    )
    assert summary.count == 4
    assert list(summary.categories.items()) == [("code", 2), ("email", 1), ("", 1)]
    assert list(summary.families.items()) == [("naive", 2), ("", 2)]
    assert (summary.checked, summary.witnessed) == (1, 1)
    assert summary.lengths["benign"] == Lengths(1, 3, 10)
    assert summary.lengths["robust_response"] == Lengths(3, 3, 6)
    assert summary.lengths["context"] == Lengths(0, 0, 2)


def test_nothing_is_summarized_as_nothing() -> None:
    summary = summarize([])
    assert summary.count == 0
    assert summary.categories == {}
    assert summary.lengths["system"] == Lengths(0, 0, 0)
