"""Options that several subcommands share, and the form of their output."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer


def complete_profile(incomplete: str) -> list[str]:
    from llmcausal.profile import shipped_profiles

    return [name for name in shipped_profiles() if name.startswith(incomplete)]


def option(metavar: str, help: str, *names: str, **settings: Any) -> Any:
    """Declares an option that takes a value; `names` replace the parameter's own name."""
    return typer.Option(*names, metavar=metavar, help=help, **settings)


Profile = Annotated[
    str,
    typer.Argument(
        metavar="PROFILE",
        help="A TOML file, or the name of a shipped profile.",
        autocompletion=complete_profile,
    ),
]
Overrides = Annotated[
    list[str] | None, option("KEY=VALUE", "Change one setting; repeatable.", "--set")
]
Checkpoint = Annotated[Path, option("DIR", "A checkpoint, such as RUN/best.")]
ApiName = Annotated[
    Literal["openai", "completions", "ollama"],
    typer.Option(help="openai and ollama send messages; completions sends token ids."),
]
Timeout = Annotated[float, option("N", "Longest time for a request, in seconds.", min=0.1)]
Patience = Annotated[float, option("N", "Longest time for retries, in seconds.", min=0)]
NumProcesses = Annotated[int, option("N", "Processes on this machine, one per GPU.", min=1)]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")
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


def reserved_stdout() -> contextlib.AbstractContextManager[Any]:
    """Sends prints inside to stderr, so that stdout carries the result alone."""
    return contextlib.redirect_stdout(sys.stderr)


def print_json(result: Any) -> None:
    typer.echo(json.dumps(result, indent=2, ensure_ascii=False, default=str))
