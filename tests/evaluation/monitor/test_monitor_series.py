"""The series: when it alarms and when not, and what a file of it may hold."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from llmcausal.errors import UsageError
from llmcausal.evaluation.monitor import series as series_module
from llmcausal.evaluation.monitor.series import (
    ATTACK_SUCCESS,
    Reference,
    Round,
    Row,
    Series,
    read_baseline,
    read_series,
    to_prometheus,
)


@pytest.fixture(autouse=True, scope="module")
def disk_is_not_waited_for() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(series_module.os, "fsync", lambda _: None)
        yield


def probed(count: int, n: int = 50, **others: Any) -> Round:
    return Round("probe", "m", {ATTACK_SUCCESS: (count, n)}, source="http://x", **others)


def alarms(folder: Path, counts: list[int], limit: float | None = None, n: int = 50) -> list[bool]:
    series = Series(folder)
    return [series.add(probed(count, n), limit, None)["alarm"] for count in counts]


@given(n=st.integers(1, 60), share=st.floats(0, 1), data=st.data())
def test_the_binomial_test_is_exact(n: int, share: float, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, n))
    expected = stats.binomtest(count, n, share, alternative="greater").pvalue
    assert Reference(share).p_value(count, n) == pytest.approx(expected)


@given(st.integers(1, 60), st.integers(1, 60), st.data())
def test_the_test_against_a_baseline_is_fishers(n: int, before: int, data: st.DataObject) -> None:
    count, earlier = data.draw(st.integers(0, n)), data.draw(st.integers(0, before))
    table = [[count, n - count], [earlier, before - earlier]]
    expected = stats.fisher_exact(table, alternative="greater").pvalue
    found = Reference(earlier / before, earlier, before).p_value(count, n)
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("limit", [0.02, 0.1, None])
def test_a_thousand_prompts_at_the_limit_hardly_ever_alarm(
    tmp_path: Path, limit: float | None
) -> None:
    draws = np.random.default_rng(0)
    share = 0.1 if limit is None else limit
    raised = 0
    for number in range(60):
        counts = draws.binomial(50, share, 21 if limit is None else 20).tolist()
        raised += sum(alarms(tmp_path / str(number), counts, limit))
    assert raised <= 8  # 60 x 5% are 3


def test_a_planted_regression_alarms_in_its_round(tmp_path: Path) -> None:
    assert alarms(tmp_path / "limit", [1, 2, 25], 0.1) == [False, False, True]
    assert alarms(tmp_path / "baseline", [1, 2, 25]) == [False, False, True]
    assert alarms(tmp_path / "any", [0, 0, 1], 0.0) == [False, False, True]


def test_a_slow_rise_alarms_in_the_sum_of_rounds(tmp_path: Path) -> None:
    found = alarms(tmp_path, [9] * 10, 0.1)
    assert not any(found[:3])
    assert any(found)


def test_rounds_before_an_alarm_are_not_held_against_a_repaired_model(tmp_path: Path) -> None:
    assert alarms(tmp_path, [30, 5, 5, 5], 0.1) == [True, False, False, False]
    (row,) = Series(tmp_path).rows[-1:]
    assert row["signals"][ATTACK_SUCCESS]["pooled"]["rounds"] == 3


def test_only_rounds_of_the_same_subject_are_compared(tmp_path: Path) -> None:
    series = Series(tmp_path)
    series.add(probed(0), None, None)
    for changed in (Round("probe", "other", {ATTACK_SUCCESS: (40, 50)}, source="http://x"),
                    probed(40, canaries="own.jsonl")):  # fmt: skip
        row = series.add(changed, None, None)
        assert row["signals"][ATTACK_SUCCESS]["reference"] is None
    assert series.add(probed(40), None, None)["alarm"]


def test_a_series_continues_and_loses_no_row_to_a_kill(tmp_path: Path) -> None:
    alarms(tmp_path, [1, 2])
    path = tmp_path / "series.jsonl"
    with path.open("ab") as file:
        file.write(b'{"round": 3, "sig')  # cut off
    series = Series(tmp_path)
    assert series.damaged == 1
    series.add(probed(3), None, None)
    again = Series(tmp_path)
    counts = [row["signals"][ATTACK_SUCCESS]["count"] for row in again.rows]
    assert (counts, again.damaged) == ([1, 2, 3], 1)
    assert [row["round"] for row in again.rows] == [1, 2, 3]


def test_a_round_without_answers_is_no_alarm_and_no_baseline(tmp_path: Path) -> None:
    series = Series(tmp_path)
    row = series.add(probed(0, 0, facts={"error": "no answer"}), 0.0, None)
    assert not row["alarm"]
    assert row["signals"][ATTACK_SUCCESS]["value"] is None
    series.add(probed(2), None, None)
    row = series.add(probed(3), None, None)
    assert row["signals"][ATTACK_SUCCESS]["reference"]["count"] == 2


@pytest.mark.parametrize("why", [{"interrupted": True}, {"error": "x"}, {"unanswered": 47}])
def test_a_round_that_was_cut_short_is_no_baseline(tmp_path: Path, why: dict[str, Any]) -> None:
    series = Series(tmp_path)
    series.add(probed(0, 3, facts=why), None, None)
    series.add(probed(2), None, None)
    row = series.add(probed(25), None, None)
    assert row["signals"][ATTACK_SUCCESS]["reference"]["n"] == 50
    assert row["alarm"]


def test_rows_of_another_process_stay_in_the_series(tmp_path: Path) -> None:
    probes, logs = Series(tmp_path), Series(tmp_path)
    logs.add(Round("logs", "m", {"witness": (1, 9)}), None, None)
    probes.add(probed(2), None, None)
    assert [(row["round"], row["kind"]) for row in probes.rows] == [(1, "logs"), (2, "probe")]


def test_a_signal_that_the_baseline_lacks_has_no_reference(tmp_path: Path) -> None:
    alarms(tmp_path, [4])
    hits = {ATTACK_SUCCESS: (5, 50), "witness": (50, 50)}
    row = Series(tmp_path / "new").add(Round("probe", "m", hits), None, tmp_path)
    assert row["signals"]["witness"]["reference"] is None
    assert not row["alarm"]


def test_a_baseline_is_a_series_or_a_result(tmp_path: Path) -> None:
    alarms(tmp_path, [4, 9])
    for path in (tmp_path, tmp_path / "series.jsonl"):
        assert read_baseline(path, [ATTACK_SUCCESS, "witness"]) == {
            ATTACK_SUCCESS: Reference(0.08, 4, 50)
        }
    result = tmp_path / "results.json"
    result.write_text(json.dumps({"tuned": {ATTACK_SUCCESS: {"value": 0.125, "n": 40}}}, indent=2))
    assert read_baseline(result, [ATTACK_SUCCESS]) == {ATTACK_SUCCESS: Reference(0.125, 5, 40)}
    row = Series(tmp_path / "new").add(probed(40), None, result)
    assert row["alarm"]


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"tuned": 3}', '{"tuned": {"attack_success_rate": {"n": -1}}}']
)
def test_a_baseline_without_counts_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"--baseline .*holds no count of attack_success_rate"):
        read_baseline(path, [ATTACK_SUCCESS])
    with pytest.raises(UsageError, match="cannot be read"):
        read_baseline(tmp_path / "absent.json", [ATTACK_SUCCESS])


SAMPLE = re.compile(r'llmcausal_monitor_\w+\{(?:\w+="(?:[^"\\\n]|\\.)*",?)*\} [-+.\w]+')


def check_prometheus(text: str) -> list[str]:
    """Asserts the text format; returns its samples."""
    assert text.endswith("\n")
    samples = [line for line in text.split("\n")[:-1] if not line.startswith("# ")]
    assert all(SAMPLE.fullmatch(line) for line in samples), samples
    return samples


def test_metrics_are_in_prometheus_format(tmp_path: Path) -> None:
    series = Series(tmp_path)
    for count in (2, 30):
        series.add(Round("probe", 'a"b\\c\nd\x1b', {ATTACK_SUCCESS: (count, 50)}), 0.1, None)
    samples = check_prometheus(to_prometheus(series.rows))
    labels = (
        '{kind="probe",model="a\\"b\\\\c?d?",source="",canaries="",signal="attack_success_rate"}'
    )
    for line in ("share", "0.6"), ("alarm", "1"), ("hits_total", "32"), ("prompts_total", "100"):
        assert f"llmcausal_monitor_{line[0]}{labels} {line[1]}" in samples


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
NAMES = ("value", "n", "count", "low", "high", "alarm", "reference", "pooled", "p_value", "share")
ROWS = st.fixed_dictionaries(
    {"signals": st.dictionaries(
        st.sampled_from([ATTACK_SUCCESS, "<b>"]),
        VALUES | st.dictionaries(st.sampled_from(NAMES), VALUES), max_size=2,
    )},
    optional=dict.fromkeys(("round", "at", "model", "kind", "alarm", "examples"), VALUES),
)  # fmt: skip


@settings(max_examples=50)
@given(st.lists(ROWS, max_size=4))
def test_whatever_a_series_holds_it_goes_on(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row]
) -> None:
    folder = tmp_path_factory.mktemp("series")
    lines = [json.dumps({**row, "kind": row.get("kind", "probe")}) for row in rows]
    (folder / "series.jsonl").write_text("\n".join(lines))
    series = Series(folder)
    assert len(series.rows) == len(rows)
    row = series.add(probed(3), None, None)
    check_prometheus(to_prometheus(series.rows))
    assert read_series(folder / "series.jsonl")[0][-1] == row
