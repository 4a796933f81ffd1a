"""The timeline of a step's memory in characters."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmcausal.errors import UsageError
from llmcausal.ui.drawings import check_plot_path
from llmcausal.ui.memory_table import HEIGHT, WIDTH, timeline_text

GIB = 2**30


def moment(phase: str, gib: float) -> dict[str, object]:
    return {"phase": phase, "allocated_bytes": {"base_model": GIB, "misc": int((gib - 1) * GIB)}}


def test_heights_follow_the_bytes_and_phases_stand_under_them() -> None:
    timeline = [moment("weights", 1)] * 10 + [moment("forward", 2)] * 10
    timeline += [moment("backward", 4)] + [moment("backward", 3)] * 11
    text = timeline_text(timeline).plain
    heading, *rows, phases = text.splitlines()
    assert "peak 4.00 GiB" in heading
    assert len(rows) == HEIGHT
    heights = [
        sum(row[column : column + 1].strip() != "" for row in rows)
        for column in range(len(timeline))
    ]
    assert (heights[0], heights[12], heights[20], heights[25]) == (2, 4, 8, 6)
    assert [phases.index(name) for name in ("|weights", "|forward", "|backward")] == [0, 10, 20]


def test_a_long_timeline_is_cut_to_columns_and_keeps_its_peak() -> None:
    timeline = [moment("forward", 1.5)] * 399
    timeline.insert(200, moment("forward", 6))
    text = timeline_text(timeline).plain
    assert "peak 6.00 GiB" in text
    assert max(map(len, text.splitlines())) == WIDTH
    assert timeline_text([]).plain == ""


def test_other_suffixes_are_refused() -> None:
    with pytest.raises(UsageError, match="name it"):
        check_plot_path(Path("memory.jpeg"), ".svg", ".png")
