"""Consoles, errors, and text that must not reach the terminal."""

from __future__ import annotations

import io
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from llmcausal.errors import DataError, Interrupted
from llmcausal.ui.console import ProgressLine, clean, one_line, print_error, wants_dashboard


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@given(st.text(st.characters(codec=None)))
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    result = clean(text)
    assert all(
        char == "\n" or unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Co", "Cn"}
        for char in result
    )
    assert clean(result) == result
    assert "\n" not in one_line(text)


def test_ordinary_text_of_any_language_is_left_alone() -> None:
    text = "Grüße, 你好 שלום\n[bold] 🙂 |table| ```code```"
    assert clean(text) == text


def test_long_lines_are_cut_to_the_limit() -> None:
    assert one_line("word " * 50, 20) == "word word word wo..."
    assert one_line("a\r\nb\u2028c\td") == "a b c d"


def test_errors_are_told_on_stderr_without_traceback_or_markup(
    capsys: pytest.CaptureFixture[str],
) -> None:
    long_path = "/data/" + "x" * 120 + ".jsonl"
    print_error(DataError([f"{long_path}:3: benign: \x1b[31m[red]missing[/red]"]))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "error: 1 defect in the data; nothing was started",
        f"{long_path}:3: benign: [31m[red]missing[/red]",
    ]


def test_an_interrupted_run_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(Interrupted("Stopped at step 3; continue with: llmcausal resume runs/a", 2))
    assert capsys.readouterr().err == "Stopped at step 3; continue with: llmcausal resume runs/a\n"


def test_the_dashboard_needs_a_real_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wants_dashboard(False, Console(file=Terminal(), force_terminal=True))
    assert not wants_dashboard(True, Console(file=Terminal(), force_terminal=True))
    assert not wants_dashboard(False, Console(file=io.StringIO()))
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert not wants_dashboard(False, Console(file=io.StringIO()))
    monkeypatch.setenv("TERM", "dumb")
    assert not wants_dashboard(False, Console(file=Terminal()))


def test_progress_off_a_terminal_is_a_line_each_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    progress = ProgressLine("answers", lambda: now[0])
    for _ in range(2):
        for done in range(1, 101):
            progress(done, 100)
            now[0] += 2.0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 22
    assert lines[0] == lines[11] == "answers 1/100"
    # 40 done since the first 10, 2 s each; each call measures its pace again.
    assert lines[5] == lines[16] == "answers 50/100, 1:40 left"
    assert lines[10] == lines[21] == "answers 100/100"


def test_an_encoding_that_lacks_a_character_does_not_fail() -> None:
    program = (
        "from llmcausal.ui.console import console, prepare_streams\n"
        "prepare_streams()\n"
        "console().print('\\u2588 \\u4f60 ok')\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", program],
        env={"PYTHONIOENCODING": "ascii", "PATH": ""},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == [b"?", b"?", b"ok"]
    assert done.returncode == 0


def test_importing_the_screens_does_not_import_torch() -> None:
    program = (
        "import sys, llmcausal.ui.progress, llmcausal.ui.tables\nsys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0
