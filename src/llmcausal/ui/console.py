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
def console() -> Console:
    """Returns the console of stdout. Markup is off: text is only ever text.

    Of several processes that work together, only the first is heard.
    """
    return Console(highlight=False, markup=False, emoji=False, quiet=process_index() > 0)


@functools.cache
def err_console() -> Console:
    """Returns the console of stderr, which is silent as that of stdout is."""
    return Console(
        stderr=True, highlight=False, markup=False, emoji=False, quiet=process_index() > 0
    )


def prepare_streams() -> None:
    """Makes stdout and stderr write `?` for what their encoding lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def wants_dashboard(plain: bool, target: Console) -> bool:
    """Tells whether a live screen can be drawn on `target` and is wanted.

    Asks the stream itself: FORCE_COLOR makes Rich call a log file a terminal.
    """
    return not plain and target.file.isatty() and not target.is_dumb_terminal


def clean(text: str) -> str:
    """Removes what a terminal could obey or a reader could not see; keeps line breaks."""
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
    """Shows `done/total` of a long call on stderr, with the time left as measured so far.

    On a terminal one line is rewritten; elsewhere there is a line each tenth.
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
            # Padded, since a shorter line leaves the end of a longer one standing.
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


stderr_progress = ProgressLine("answers")
"""Progress of an evaluation."""


@contextmanager
def status(what: str) -> Iterator[None]:
    """Shows on stderr that `what` is under way: a spinner on a terminal, else one line."""
    target = err_console()
    if target.is_terminal:
        with target.status(what):
            yield
    else:
        target.print(f"{what} ...")
        yield


def show_notes(notes: Sequence[str]) -> None:
    """Prints notes, one a line."""
    for note in notes:
        console().print(clean(note), soft_wrap=True)
