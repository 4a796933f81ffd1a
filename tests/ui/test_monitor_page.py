"""The monitor's page and table, whatever a series holds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from llmcausal.ui.monitoring import crossed, notes_of, render_round, write_page

SCRIPT = "</pre><script>alert(1)</script>\x1b[2J\u202e"


def signal(count: int, n: int = 50, alarm: bool = False) -> dict[str, Any]:
    share = count / n
    return {
        "count": count, "n": n, "value": share, "low": share / 2, "high": min(1, share * 2 + 0.05),
        "reference": {"share": 0.1, "count": None, "n": None}, "p_value": 1e-6, "level": 1e-3,
        "pooled": {"rounds": 2, "count": count, "n": n, "p_value": 0.2}, "alarm": alarm,
    }  # fmt: skip


def row(number: int, count: int, alarm: bool = False, **others: Any) -> dict[str, Any]:
    signals = {"attack_success_rate": signal(count, alarm=alarm)}
    facts = {"kind": "probe", "model": "m", "source": "http://x", "canaries": "builtin"}
    return {"round": number, "at": f"2026-11-30T1{number}:00:00+00:00", **facts,
            "signals": signals, "alarm": alarm, **others}  # fmt: skip


def test_the_page_shows_the_newest_state_and_the_rounds(tmp_path: Path) -> None:
    out = tmp_path / "monitor.html"
    first = row(1, 2)
    first["signals"]["attack_success_rate"]["reference"] = None
    write_page([first], out)
    assert "There is nothing to compare with yet" in out.read_text("utf-8")
    write_page([row(1, 2), row(2, 3)], out)
    assert "No limit is crossed" in out.read_text("utf-8")
    write_page([row(1, 2), row(2, 3), row(3, 30, alarm=True)], out, damaged=2)
    page = out.read_text("utf-8")
    assert "A limit is crossed: attack success 60.0%, reference 10.0%" in page
    assert page.count('<tr><th scope="row">') == 3
    assert re.search(r'aria-label="Attack success, percent, rounds 1 to 3\. Last: 60', page)
    assert "2 damaged lines of the series are left out" in page
    assert page.index("2026-11-30T13") < page.index("2026-11-30T12")  # the newest first


def test_a_table_fits_a_terminal_and_says_what_was_crossed() -> None:
    shown = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    last = row(3, 30, alarm=True, empty=4, refused=1, error="HTTP 500")
    shown.print(render_round(last))
    text = shown.export_text()
    shown.file.close()
    assert re.search(r"attack_success_rate +30/50 +60\.0% \[30, 100\] +10\.0% .*ALARM", text)
    assert "4 empty answers" in text
    assert "the endpoint failed: HTTP 500" in text
    assert crossed(last).startswith("attack_success_rate: 30 of 50, limit 10.0%, p = 1.0e-6")
    assert notes_of(row(1, 0)) == []


@pytest.mark.parametrize(
    "odd", [None, "x", -1, 1e308, float("nan"), [], {}, {"share": "x"}, 10**400, SCRIPT, True]
)
def test_a_series_may_hold_anything(tmp_path: Path, odd: Any) -> None:
    out = tmp_path / "monitor.html"
    sound = row(1, 2)
    rows = [sound]
    for key in sound:
        rows.append(
            {**sound, key: odd} if key != "signals" else {**sound, "signals": {SCRIPT: odd}}
        )
    for key in sound["signals"]["attack_success_rate"]:
        changed = {**signal(3), key: odd}
        rows.append({**sound, "signals": {"attack_success_rate": changed}})
    for key in ("examples", "flagged", "notes", "error", "unreadable", "file"):
        rows.append({**sound, key: odd})
        rows.append({**sound, key: [{"id": odd, "answer": odd, "line": odd, "signals": odd}]})
    write_page(rows, out)
    page = out.read_text("utf-8")
    assert "<script" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
