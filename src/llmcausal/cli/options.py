"""Options that several subcommands share, and the form of their output."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer


def complete_profile(incomplete: str) -> list[str]:
    """Returns the shipped profiles whose names begin so, for the shell's completion."""
    from llmcausal.profile import shipped_profiles

    return [name for name in shipped_profiles() if name.startswith(incomplete)]


Profile = Annotated[
    str,
    typer.Argument(
        metavar="PROFILE",
        help="A TOML file, or the name of a shipped profile.",
        autocompletion=complete_profile,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; repeatable."),
]
Checkpoint = Annotated[
    Path, typer.Option("--checkpoint", metavar="DIR", help="A checkpoint, such as RUN/best.")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")
]
NumProcesses = Annotated[
    int,
    typer.Option(metavar="N", min=1, help="Processes on this machine, one per GPU."),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Run Python code that comes with the model. Read it first."
    ),
]
Plain = Annotated[bool, typer.Option("--plain", help="Plain lines instead of the live screen.")]


def examples(*commands: str) -> str:
    """Returns an epilog that shows `commands`, one a line."""
    return "\n".join(["[bold]Examples[/bold]", *(f"  {command}" for command in commands)])


def subcommand(**settings: Any) -> typer.Typer:
    """Returns an empty Typer for one subcommand's file."""
    return typer.Typer(
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        **settings,
    )


@contextlib.contextmanager
def reserved_stdout() -> Iterator[None]:
    """Sends prints inside to stderr, so that stdout carries the result alone."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def print_json(result: Any) -> None:
    typer.echo(json.dumps(result, indent=2, ensure_ascii=False, default=str))
