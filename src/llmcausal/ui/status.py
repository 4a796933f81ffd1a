"""What the program is busy with before there is anything to show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from llmcausal.ui.console import clean, console, err_console


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
