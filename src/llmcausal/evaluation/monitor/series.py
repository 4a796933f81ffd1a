"""The series of a monitor: one row a round, with the test that decides about an alarm."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scipy import stats

from llmcausal.errors import StorageError, UsageError, writing
from llmcausal.evaluation.statistics import proportion
from llmcausal.metrics import CORE
from llmcausal.storage import read_at_most

Row = dict[str, Any]

ATTACK_SUCCESS = CORE[0].name
SERIES = "series.jsonl"
MAX_SERIES_BYTES = 256 * 2**20
FALSE_ALARM_IN_1000 = 0.05
"""Greatest chance of any false alarm in 1,000 prompts whose true share is at the reference."""
GREATEST_LEVEL = 0.01
"""Of one test, however many prompts its round has."""
POOLED_ROUNDS = 10
"""A slow rise shows in the sum of recent rounds before it shows in one."""
_MOST = 10**12
_IDENTITY = ("kind", "model", "source", "canaries")
"""Rounds that differ in one of these are not compared."""


@dataclass(frozen=True)
class Reference:
    """What a share must not exceed: a limit, or `count` of `n` in an earlier measurement."""

    share: float
    count: int | None = None
    n: int | None = None

    def p_value(self, count: int, n: int) -> float:
        """Returns the chance of `count` or more of `n` if the true share is at the reference.

        One-sided and exact: the binomial test against a limit; Fisher's test against an earlier
        measurement, whose own uncertainty then counts.
        """
        if self.count is None or self.n is None:
            return float(stats.binom.sf(count - 1, n, self.share))
        total = self.n + n
        return float(stats.hypergeom.sf(count - 1, total, self.count + count, n))


def level(n: int, tests: int) -> float:
    """Returns the greatest p-value that raises an alarm, for one of a round's tests.

    A round of `n` prompts has `n / 1000` of `FALSE_ALARM_IN_1000`, shared by its tests.
    """
    return min(FALSE_ALARM_IN_1000 * n / 1000, GREATEST_LEVEL) / tests


@dataclass(frozen=True)
class Round:
    """What a round measured.

    Attributes:
        kind: `probe` or `logs`.
        source: The endpoint's URL; "" for logs.
        hits: By signal, how many of how many prompts.
        canaries: Names the set of canaries.
        facts: What else the row holds.
    """

    kind: str
    model: str
    hits: Mapping[str, tuple[int, int]]
    source: str = ""
    canaries: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


class Series:
    """`series.jsonl` in a folder; an interrupted writer leaves every earlier row sound.

    Attributes:
        rows: Sound rows, oldest first.
        damaged: Number of other lines, which are ignored.

    Raises:
        StorageError: If the file cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / SERIES
        self.rows, self.damaged = read_series(self.path)

    def add(self, measured: Round, limit: float | None, baseline: Path | None) -> Row:
        """Judges a round, and appends its row; it is on disk before this returns.

        Rows that another process appended meanwhile count too.

        Without limit and baseline the reference is the first comparable round of the series,
        which itself raises no alarm.

        Raises:
            StorageError: If the disk refuses.
            UsageError: If the baseline cannot be used.
        """
        self.rows, self.damaged = read_series(self.path)
        row: Row = {
            "round": 1 + max((_whole(row.get("round")) for row in self.rows), default=0),
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "kind": measured.kind,
            "model": measured.model,
            "source": measured.source,
            "canaries": measured.canaries,
        }
        earlier = [old for old in self.rows if all(old.get(key) == row[key] for key in _IDENTITY)]
        given: Mapping[str, Reference] | None = None
        if limit is not None:
            given = dict.fromkeys(measured.hits, Reference(limit))
        elif baseline is not None:
            given = read_baseline(baseline, [*measured.hits])
        row["signals"] = {
            name: _judged(name, hits, earlier, len(measured.hits), given)
            for name, hits in measured.hits.items()
        }
        row["alarm"] = any(signal["alarm"] for signal in row["signals"].values())
        row |= measured.facts
        self._append(row)
        self.rows.append(row)
        return row

    def _append(self, row: Row) -> None:
        line = json.dumps(row, ensure_ascii=False, allow_nan=False)
        # The line feed in front closes a line that was cut off by a kill or a full disk.
        content = b"\n" + line.encode("utf-8", errors="backslashreplace") + b"\n"
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())


def _judged(
    name: str,
    hits: tuple[int, int],
    earlier: Sequence[Row],
    signals: int,
    given: Mapping[str, Reference] | None,
) -> dict[str, Any]:
    count, n = hits
    signal = {"count": count, **proportion([True] * count + [False] * (n - count))}
    own = _first(name, earlier) if given is None else None
    reference = (own[1] if own else None) if given is None else given.get(name)
    signal |= {"reference": None, "p_value": None, "pooled": None, "alarm": False}
    if reference is None or not n:
        return signal
    alpha = level(n, 2 * signals)
    since = earlier[own[0] + 1 :] if own else earlier
    pool = [hits, *_since_alarm(name, since)[-(POOLED_ROUNDS - 1) :]]
    summed = sum(count for count, _ in pool), sum(n for _, n in pool)
    p_value, pooled = reference.p_value(*hits), reference.p_value(*summed)
    return signal | {
        "reference": vars(reference),
        "p_value": p_value,
        "level": alpha,
        "pooled": {"rounds": len(pool), "count": summed[0], "n": summed[1], "p_value": pooled},
        "alarm": min(p_value, pooled) < alpha,
    }


def _first(name: str, rows: Sequence[Row]) -> tuple[int, Reference] | None:
    for place, row in enumerate(rows):
        cut_short = any(row.get(key) for key in ("interrupted", "error", "unanswered"))
        if not cut_short and (hits := counts_of(row, name)):
            count, n = hits
            return place, Reference(count / n, count, n)
    return None


def _since_alarm(name: str, rows: Sequence[Row]) -> list[tuple[int, int]]:
    """Returns the hits of the rows after the last alarm: what was repaired is not held against."""
    last = max((place for place, row in enumerate(rows) if row.get("alarm") is True), default=-1)
    found = [counts_of(row, name) for row in rows[last + 1 :]]
    return [hits for hits in found if hits]


def counts_of(row: Mapping[str, Any], name: str) -> tuple[int, int] | None:
    """Returns a signal's hits and prompts in a row of a file; None where there are none."""
    signals = row.get("signals")
    signal = signals.get(name) if isinstance(signals, Mapping) else None
    if not isinstance(signal, Mapping):
        return None
    count, n = _whole(signal.get("count"), -1), _whole(signal.get("n"), -1)
    return (count, n) if 0 <= count <= n and 0 < n < _MOST else None


def read_series(path: Path) -> tuple[list[Row], int]:
    """Returns the sound rows of a series, none if there is no file, and the number of others."""
    try:
        lines = read_at_most(path, MAX_SERIES_BYTES).splitlines()
    except FileNotFoundError:
        return [], 0
    except (OSError, ValueError) as error:
        raise StorageError(f"{path}: cannot be read: {error}") from error
    rows, damaged = [], 0
    for line in filter(bytes.strip, lines):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and isinstance(row.get("signals"), dict):
            rows.append(row)
        else:
            damaged += 1
    return rows, damaged


def read_baseline(path: Path, names: Sequence[str]) -> dict[str, Reference]:
    """Reads references from the first rows of a series, or from an evaluation's results.json.

    Returns:
        The signals that the file counts, among `names`.

    Raises:
        UsageError: If the file counts none of them.
    """
    place = path / SERIES if path.is_dir() else path
    reason = f"holds no count of {' or '.join(names)}"
    found: dict[str, Reference] = {}
    try:
        content = read_at_most(place, MAX_SERIES_BYTES)
        rows, _ = read_series(place)
        for name in names:
            if first := _first(name, rows):
                found[name] = first[1]
            elif not rows and (figure := json.loads(content)["tuned"].get(name)):
                n = _whole(figure["n"])
                if 0 < n < _MOST and 0 <= figure["value"] <= 1:
                    count = round(figure["value"] * n)
                    found[name] = Reference(count / n, count, n)
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass
    if not found:
        raise UsageError(f"--baseline {path}: {reason}; give a series.jsonl or a results.json")
    return found


def _whole(value: object, otherwise: int = 0) -> int:
    return value if type(value) is int else otherwise


_GAUGES = (
    ("share", "value", "Share of prompts in the last round."),
    ("share_low", "low", "Lower end of its 95% interval."),
    ("share_high", "high", "Upper end of its 95% interval."),
    ("prompts", "n", "Prompts in the last round."),
    ("reference", "reference", "What the share must not exceed."),
    ("alarm", "alarm", "1 if the last round crossed its limit."),
)
"""Each gauge's name, its key in a signal, and its help text."""


def to_prometheus(rows: Sequence[Row]) -> str:
    """Writes the newest round of each subject in Prometheus' text format, version 0.0.4."""
    newest: dict[tuple[str, ...], Row] = {}
    for row in rows:
        newest[tuple(str(row.get(key)) for key in _IDENTITY)] = row
    lines: list[str] = []

    def write(name: str, text: str, kind: str, samples: list[tuple[dict[str, str], Any]]) -> None:
        full = f"llmcausal_monitor_{name}"
        lines.extend([f"# HELP {full} {text}", f"# TYPE {full} {kind}"])
        for labels, value in samples:
            if isinstance(value, int | float) and abs(value) < _MOST:
                shown = ",".join(f'{key}="{_label(text)}"' for key, text in labels.items())
                lines.append(f"{full}{{{shown}}} {value:.12g}")

    subjects = [(dict(zip(_IDENTITY, key, strict=True)), row) for key, row in newest.items()]
    signals = [
        ({**labels, "signal": str(name)}, signal)
        for labels, row in subjects
        for name, signal in row["signals"].items()
        if isinstance(signal, dict) and isinstance(signal.get("alarm"), bool)
    ]
    for name, key, text in _GAUGES:
        write(name, text, "gauge", [(labels, _figure(signal, key)) for labels, signal in signals])
    up = [(labels, int(not row.get("error"))) for labels, row in subjects]
    write("up", "0 if the last round could not be measured.", "gauge", up)
    times = [(labels, _seconds(row.get("at"))) for labels, row in subjects]
    write("round_timestamp_seconds", "When the last round was.", "gauge", times)
    for name, text, place in (
        ("hits_total", "Prompts that raised the signal, in all rounds.", 0),
        ("prompts_total", "Prompts in all rounds.", 1),
    ):
        totals = []
        for labels, _ in signals:
            alike = [row for row in rows if all(str(row.get(k)) == labels[k] for k in _IDENTITY)]
            found = [counts_of(row, labels["signal"]) for row in alike]
            totals.append((labels, sum(hits[place] for hits in found if hits)))
        write(name, text, "counter", totals)
    return "\n".join([*lines, ""])


def _figure(signal: Mapping[str, Any], key: str) -> Any:
    value = signal.get(key)
    if key != "reference":
        return value
    return value.get("share") if isinstance(value, Mapping) else None


def _label(text: str) -> str:
    written = "".join(char if char.isprintable() else "?" for char in text)
    return written.replace("\\", r"\\").replace('"', r"\"")


def _seconds(value: object) -> float | None:
    try:
        return datetime.fromisoformat(str(value)).timestamp()
    except (ValueError, OverflowError):
        return None
