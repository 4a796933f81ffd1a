from __future__ import annotations

import math
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from llmcausal.ui.ablation import ablation_plot
from llmcausal.ui.plots import (
    Measured,
    compact,
    interval_strip,
    number,
    representation_map,
    spelled,
    tag,
    tick_label,
    ticks,
)
from llmcausal.ui.plots_curves import Curve, collect, curve_panel

NUMBERS = st.floats(-1e300, 1e300)


def test_text_and_attributes_are_escaped_and_drawings_are_not() -> None:
    made = tag("g", '<b a="1">', tag("line", x1=1.0), aria_label='"><script>')
    assert made == (
        '<g aria-label="&#34;&gt;&lt;script&gt;">&lt;b a=&#34;1&#34;&gt;<line x1="1"/></g>'
    )


def test_what_cannot_be_seen_is_spelled_out() -> None:
    assert spelled("a\u202eb\u200b\U000e0041\n\u3164") == "a⟨U+202E⟩b⟨U+200B⟩⟨tag A⟩\n⟨U+3164⟩"


@given(
    NUMBERS,
    NUMBERS,
)
def test_ticks_cover_the_range_and_are_few(one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    marks = ticks(low, high)
    slack = 1e-5 * max(abs(low), abs(high), 1e-6)
    assert marks[0] <= low + slack
    assert marks[-1] >= high - slack
    assert 2 <= len(marks) <= 8
    assert all(tick_label(mark, marks) for mark in marks)


def test_tick_labels_tell_neighbours_apart() -> None:
    assert min(ticks(0.0, 0.0)) == 0.0
    marks = ticks(0.0, 0.00051)
    assert [tick_label(mark, marks) for mark in marks] == ["0", "2e-4", "4e-4", "6e-4"]
    marks = ticks(0.1, 0.95)
    labels = [tick_label(mark, marks) for mark in marks]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("raw", [None, "0.5", True, math.nan, math.inf, 10**400, [0.5]])
def test_only_finite_numbers_are_figures(raw: object) -> None:
    assert number(raw) is None
    assert Measured.of({"value": raw, "n": raw, "low": raw, "high": raw}) == Measured()


def test_figures_are_written_with_few_digits() -> None:
    written = [compact(value) for value in (0.0, 0.12345, 14.23, 2103.4, 5e-4, 3.2e6)]
    assert written == ["0", "0.123", "14.2", "2103", "5.0e-4", "3.2e6"]


def test_a_strip_draws_each_figure_at_its_share() -> None:
    base, tuned = Measured(0.4, 10, 0.2, 0.6), Measured(0.05, 10, 0.0, 0.1)
    root = ElementTree.fromstring(interval_strip([("base", base), ("tuned", tuned)]))
    bars = [
        (e.get("x1"), e.get("x2")) for e in root.iter("line") if "bar" in (e.get("class") or "")
    ]
    assert bars == [("20.00%", "60.00%"), ("0.00%", "10.00%")]
    assert [e.get("cx") for e in root.iter("circle")] == ["40.00%"]
    assert [e.get("x") for e in root.iter("svg") if e.get("class") == "mark"] == ["5.00%"]


def test_a_strip_without_figures_has_no_dot() -> None:
    assert "dot" not in interval_strip([("base", Measured()), ("tuned", Measured())])


def test_a_curve_of_many_steps_is_thinned_but_keeps_its_spike() -> None:
    rows = [{"step": step, "loss": 1.0} for step in range(1, 20_001)]
    rows[12_345]["loss"] = 50.0
    spiked = curve_panel(collect(rows, "loss", "loss"), (1, 20_000))
    assert len(spiked) < 12_000
    raw = next(
        e for e in ElementTree.fromstring(spiked).iter("path") if "raw" in e.get("class", "")
    )
    heights = [float(pair.split(",")[1]) for pair in raw.get("d", "")[1:].split()]
    assert min(heights) < 40 < max(heights)


def test_a_curve_leaves_out_what_is_not_finite() -> None:
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": None}, {"step": 3, "loss": 1.0}]
    assert collect(rows, "loss", "loss").training == [(1.0, 2.0), (3.0, 1.0)]


@given(st.lists(NUMBERS, min_size=1, max_size=60))
def test_every_finite_curve_stays_inside_its_panel(values: list[float]) -> None:
    curve = Curve("x", training=[(float(i), v) for i, v in enumerate(values)])
    drawn = ElementTree.fromstring(curve_panel(curve, (0, len(values))))
    for path in drawn.iter("path"):
        for pair in path.get("d", "")[1:].split():
            x, y = map(float, pair.split(","))
            assert -1 <= x <= 261
            assert -1 <= y <= 169


def test_the_map_tells_the_kinds_apart_by_shape() -> None:
    points: list[dict[str, Any]] = [
        {"id": "a", "member": member, "x": float(i), "y": 0.0}
        for i, member in enumerate(("benign", "benign_cf", "injection"))
    ]
    points += [{"id": "b", "member": "benign", "x": math.nan, "y": 1.0}, {"member": "else"}]
    drawn = representation_map(points, "map")
    assert drawn is not None
    paths = [e.get("d", "") for e in ElementTree.fromstring(drawn).iter("path")]
    assert len(paths) == 3
    assert len({path.split("m", 1)[1] for path in paths}) == 3


def test_nothing_to_draw_is_no_map() -> None:
    assert representation_map([{"member": "benign", "x": None, "y": 0}], "map") is None


def ablation_rows() -> list[dict[str, Any]]:
    figure = {"value": 0.5, "n": 90, "low": 0.4, "high": 0.6}
    seeds = [{"attack_success_rate": value, "utility": 0.9} for value in (0.45, 0.55)]
    row = {"seeds": seeds, "attack_success_rate": figure, "utility": {**figure, "value": None}}
    return [
        {**row, "label": "task & <robust>", "utility_under_attack": figure},
        {**row, "label": "a long name " * 20, "utility_under_attack": None},
    ]


def test_the_ablation_is_a_whole_svg_with_a_mark_for_each_seed() -> None:
    drawn = ablation_plot(ablation_rows())
    assert not isinstance(drawn, Markup)
    root = ElementTree.fromstring(drawn)
    name = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{name}svg"
    assert len(list(root.iter(f"{name}circle"))) == 4
    texts = [e.text or "" for e in root.iter(f"{name}text")]
    assert "task & <robust>" in texts
    assert "Utility under attack" in texts
    assert "Utility" not in texts  # nothing was measured of it


def test_an_empty_ablation_is_still_a_picture() -> None:
    ElementTree.fromstring(ablation_plot([]))
