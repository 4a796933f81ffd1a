from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup

from llmcausal.ui.drawings import (
    ablation_plot,
    interval_strip,
    line_panel,
    moving_mean,
    representation_map,
)
from llmcausal.ui.figures import Measured

NUMBERS = st.floats(-1e300, 1e300)
SVG = "{http://www.w3.org/2000/svg}"


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


def panel(values: Sequence[float], kind: str = "training") -> ElementTree.Element:
    points = [(float(step), value) for step, value in enumerate(values, 1)]
    return ElementTree.fromstring(line_panel("loss", [(kind, points)], (1, len(values)), "Last: 1"))


def heights(root: ElementTree.Element, kind: str) -> list[float]:
    """Vertical coordinates of a line's points."""
    (line,) = [e for e in root.iter("g") if e.get("class") == f"line {kind}"]
    (path,) = line.iter("path")
    return [float(y) for y in re.findall(r"\S+", path.get("d", ""))[2::3]]


def test_a_panel_has_classes_and_words_and_no_style() -> None:
    root = panel([3.0, 2.0, 1.0])
    assert root.get("aria-label") == "loss, steps 1 to 3. Last: 1"
    assert {e.get("class") for e in root.iter("g")} == {"grid", "axis", "tick", "line training"}
    assert not [e for e in root.iter() if e.get("style")]
    texts = [e.text for e in root.iter("text")]
    assert [text for text in texts if text in ("1", "2", "3")] == ["1", "2", "3"]
    assert {"1.0", "1.5", "2.0", "2.5", "3.0"} <= set(texts)


def test_a_curve_of_many_steps_is_thinned_but_keeps_its_spike() -> None:
    chance = random.Random(0)
    values = [chance.gauss(0, 1) for _ in range(20_000)]
    values[12_345] = 50.0
    root = panel(values, "raw")
    assert len(ElementTree.tostring(root)) < 12_000
    assert min(heights(root, "raw")) < 40
    assert max(heights(root, "raw")) > 100


def test_one_point_is_seen() -> None:
    root = panel([2.0])
    assert [e for e in root.iter("g") if e.get("class") == "ring training"]


@settings(deadline=None, max_examples=15)
@given(st.lists(NUMBERS, min_size=1, max_size=60))
def test_every_finite_curve_stays_inside_its_panel(values: list[float]) -> None:
    found = heights(panel(values), "training")
    assert found
    assert all(7 <= height <= 145 for height in found)


def test_labels_tell_neighbours_apart_and_stay_short() -> None:
    for values in ([0.0, 0.00051], [0.1, 0.95], [12_000.0, 12_010.0], [0.0, 3e-9], [0.0, 4e12]):
        marks = [e for e in panel(values).iter("g") if e.get("class") == "tick"]
        labels = [e.text or "" for mark in marks for e in mark.iter("text")][-4:]
        assert len(set(labels)) == len(labels)
        assert max(map(len, labels)) <= 7, labels


def test_a_moving_mean_keeps_few_points_and_smooths_many() -> None:
    few = [(1.0, 5.0), (2.0, 1.0)]
    assert moving_mean(few) is few
    zigzag = [(float(step), float(step % 2)) for step in range(400)]
    assert all(0.3 < value < 0.7 for _, value in moving_mean(zigzag))


def test_the_map_tells_the_kinds_apart_by_shape() -> None:
    points: list[dict[str, Any]] = [
        {"id": "a", "member": member, "x": float(i), "y": 0.0}
        for i, member in enumerate(("benign", "benign_cf", "injection"))
    ]
    points += [{"id": "b", "member": "benign", "x": math.nan, "y": 1.0}, {"member": "else"}]
    drawn = representation_map(points, "map")
    assert drawn is not None
    root = ElementTree.fromstring(drawn)
    kinds = [e.get("class") for e in root.iter("g")]
    assert kinds == ["kind benign", "kind benign_cf", "kind injection"]
    assert len({e.get("d") for e in root.iter("path")}) == 3
    places = [float(e.get("x", "")) for e in root.iter("use")]
    assert places == sorted(places)
    assert len(places) == 3


def test_nothing_to_draw_is_no_map() -> None:
    assert representation_map([{"member": "benign", "x": None, "y": 0}], "map") is None


def ablation_rows() -> list[dict[str, Any]]:
    figure = {"value": 0.5, "n": 90, "low": 0.4, "high": 0.6}
    seeds = [{"attack_success_rate": value, "utility": 0.9} for value in (0.45, 0.55)]
    row = {"seeds": seeds, "attack_success_rate": figure, "utility": {**figure, "value": None}}
    return [
        {**row, "label": "task & <robust> $x$ \u202e"},
        {**row, "label": "a long name " * 20, "utility_under_attack": figure},
    ]


def test_the_ablation_is_a_whole_svg_with_a_mark_for_each_seed() -> None:
    drawn = ablation_plot(ablation_rows())
    assert not isinstance(drawn, Markup)
    root = ElementTree.fromstring(drawn)
    assert root.tag == f"{SVG}svg"
    seeds = [e for e in root.iter(f"{SVG}g") if e.get("class") == "seed"]
    assert sum(len(list(e.iter(f"{SVG}use"))) for e in seeds) == 4
    texts = [e.text or "" for e in root.iter(f"{SVG}text")]
    assert "task & <robust> $x$ ⟨U+202E⟩" in texts
    assert "Utility under attack" in texts
    assert "Utility" not in texts  # not measured
    assert texts.count("50.0%") == 3


def test_an_empty_ablation_is_still_a_picture() -> None:
    ElementTree.fromstring(ablation_plot([]))
