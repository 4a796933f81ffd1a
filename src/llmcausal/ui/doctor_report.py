"""The checks of `doctor` on the screen: one line each, as soon as it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeVar

from rich.table import Table
from rich.text import Text

from llmcausal.ui.console import console, err_console, one_line, status

COLORS = {"pass": "green", "warning": "yellow", "fail": "bold red"}


class Checked(Protocol):
    """What a check found; `diagnostics.check.Check` is one."""

    @property
    def name(self) -> str:
        """What was checked."""

    @property
    def status(self) -> str:
        """`pass`, `warning` or `fail`."""

    @property
    def detail(self) -> str:
        """What was found."""

    @property
    def fix(self) -> str:
        """What to do about it."""


Shown = TypeVar("Shown", bound=Checked)


def watcher() -> Callable[[str], AbstractContextManager[None]]:
    """Returns what shows the check under way: a spinner, or nothing where stderr is a file."""
    return status if err_console().is_terminal else lambda _what: nullcontext()


def show_checks(checks: Iterable[Shown]) -> list[Shown]:
    """Prints each check when it is done, and returns them all.

    A terminal gets columns, a file one line each.
    """
    shown = []
    for check in checks:
        shown.append(check)
        if console().is_terminal:
            console().print(_row(check))
        else:
            fix = f" -> {one_line(check.fix)}" if check.fix else ""
            head = f"{check.status:<8}{check.name:<14} "
            console().print(f"{head}{one_line(check.detail)}{fix}", soft_wrap=True)
    return shown


def _row(check: Checked) -> Table:
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(width=7)
    table.add_column(width=14)
    table.add_column(ratio=1, overflow="fold")
    found = Text(one_line(check.detail))
    if check.fix:
        found.append(f"\n-> {one_line(check.fix)}", "cyan")
    table.add_row(Text(check.status, COLORS[check.status]), Text(check.name), found)
    return table
