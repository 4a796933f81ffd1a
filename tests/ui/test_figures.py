"""How figures are written."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcausal.ui.figures import (
    ASCII_BLOCKS,
    BLOCKS,
    Measured,
    compact,
    duration,
    figure,
    number,
    sparkline,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (75.9, "1:15"),
        (3600, "1:00:00"),
        (86399, "23:59:59"),
        (180075, "2d 02:01:15"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("loss", 1.23456, "1.2346"),
        ("loss", 123456.0, "1.235e+05"),
        ("loss", math.nan, "nan"),
        ("loss", None, "-"),
        ("learning_rate_adapter", 2e-4, "2.00e-04"),
        ("tokens_per_second", 12345.6, "12,346"),
    ],
)
def test_figures(name: str, value: object, text: str) -> None:
    assert figure(name, value) == text


def test_sparkline_shows_the_newest_values() -> None:
    assert sparkline([99.0, *range(8)], 8) == BLOCKS
    assert sparkline([0.0, math.nan, 1.0], 5, ascii_only=True) == (
        f"{ASCII_BLOCKS[0]} {ASCII_BLOCKS[-1]}"
    )


@given(st.lists(st.floats()), st.integers(-3, 40))
def test_sparkline_takes_any_values(values: list[float], width: int) -> None:
    line = sparkline(values, width)
    assert len(line) == min(len(values), max(width, 0))
    assert set(line) <= set(BLOCKS + " ")


@pytest.mark.parametrize("raw", [None, "0.5", True, math.nan, math.inf, 10**400, [0.5]])
def test_only_finite_numbers_are_figures(raw: object) -> None:
    assert number(raw) is None
    assert Measured.of({"value": raw, "n": raw, "low": raw, "high": raw}) == Measured()


def test_figures_are_written_with_few_digits() -> None:
    written = [compact(value) for value in (0.0, 0.12345, 14.23, 2103.4, 5e-4, 3.2e6)]
    assert written == ["0", "0.123", "14.2", "2103", "5.0e-4", "3.2e6"]
