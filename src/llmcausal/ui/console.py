"""The terminal: consoles, progress and status lines."""

from __future__ import annotations

import functools
import io
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from llmcausal.errors import Interrupted
from llmcausal.launched import process_index
from llmcausal.ui.figures import duration

HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
"""Control, format (bidi overrides, invisible tags, zero width), surrogate, private, unassigned."""
LINE_BREAKS = str.maketrans(dict.fromkeys("\r\x0b\x0c\x85\u2028\u2029", "\n"))


@functools.cache
def console(*, stderr: bool = False) -> Console:
    """Returns a console without markup; of several processes only the first prints."""
    quiet = process_index() > 0
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, quiet=quiet)


def err_console() -> Console:
    return console(stderr=True)


def prepare_streams() -> None:
    """Makes stdout and stderr write `?` for characters that their encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def wants_dashboard(plain: bool, target: Console) -> bool:
    """Whether to draw a live screen on `target`."""
    # Not Rich's `is_terminal`, which FORCE_COLOR makes true for a log file.
    return not plain and target.file.isatty() and not target.is_dumb_terminal


def clean(text: str) -> str:
    """Removes control and invisible characters, except line breaks."""
    text = text.replace("\r\n", "\n").translate(LINE_BREAKS).replace("\t", " ")
    return "".join(
        char for char in text if char == "\n" or unicodedata.category(char) not in HIDDEN_CATEGORIES
    )


def one_line(text: str, limit: int | None = None) -> str:
    """Returns `text` cleaned, on one line, of at most `limit` characters."""
    line = " ".join(clean(text).split())
    return line if limit is None or len(line) <= limit else f"{line[: limit - 3].rstrip()}..."


def print_error(error: BaseException) -> None:
    """Prints an error's message to stderr, without a traceback."""
    heading = Text() if isinstance(error, Interrupted) else Text("error: ", style="bold red")
    message = str(error) or type(error).__name__
    if index := process_index():
        sys.stderr.write(clean(f"process {index}: {message}\n"))
        return
    err_console().print(heading + Text(clean(message)), soft_wrap=True)


class ProgressLine:
    """Shows a long call's `done/total` and time left on stderr.

    A terminal shows one line, a file gets a line for each tenth.
    """

    def __init__(self, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._clock = clock
        self._tenth = -1
        self._began: tuple[float, int] | None = None

    def __call__(self, done: int, total: int) -> None:
        target = err_console()
        finished = done >= total
        line = f"{self._what} {done}/{total}{self._left(done, total)}"
        tenth = done * 10 // max(total, 1)
        if target.is_terminal:
            # The padding overwrites the end of a longer line.
            target.print(f"{line:<60}", end="\n" if finished else "\r")
        elif tenth != self._tenth:
            target.print(line)
        self._tenth = -1 if finished else tenth
        if finished:
            self._began = None

    def _left(self, done: int, total: int) -> str:
        now = self._clock()
        if self._began is None:
            self._began = (now, done)
        since, first = self._began
        if done <= first or done >= total:
            return ""
        seconds = (now - since) / (done - first) * (total - done)
        return f", {duration(seconds)} left"


@contextmanager
def status(what: str) -> Iterator[None]:
    """Shows `what` on stderr: on a terminal by a spinner until the end, else on one line."""
    target = err_console()
    if target.is_terminal:
        with target.status(what):
            yield
    else:
        target.print(f"{what} ...")
        yield


def show_notes(notes: Sequence[str]) -> None:
    for note in notes:
        console().print(clean(note), soft_wrap=True)
