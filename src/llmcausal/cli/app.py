"""The console script: runs a subcommand; turns failures into messages and exit codes."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from llmcausal import __version__
from llmcausal.cli import COMMANDS
from llmcausal.cli.options import examples
from llmcausal.errors import LlmcausalError
from llmcausal.launched import settle_libraries
from llmcausal.registry import nearest
from llmcausal.train.interrupt import handled_by


class LazyGroup(TyperGroup):
    """The root command; imports only the module of the subcommand that runs."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS.entries)

    def get_command(self, ctx: Any, cmd_name: str) -> TyperCommand | TyperGroup | None:
        if cmd_name not in COMMANDS.entries:
            if not ctx.resilient_parsing:
                ctx.fail(f"No such command {cmd_name!r}{nearest(cmd_name, COMMANDS.entries)}")
            return None
        command: Any = typer.main.get_command(COMMANDS.load(cmd_name))
        command.name = cmd_name
        return command  # type: ignore[no-any-return]


app = typer.Typer(
    cls=LazyGroup,
    name="llmcausal",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "llmcausal doctor demo-cpu",
        "llmcausal train demo-cpu",
        "llmcausal eval --checkpoint runs/demo-cpu/best",
    ),
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"llmcausal {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Fine-tune a language model to resist prompt injection."""


def main() -> None:
    """Runs the command line; turns every failure into one message and an exit code."""
    from llmcausal.ui.console import prepare_streams

    settle_libraries()
    prepare_streams()
    try:
        with handled_by(_terminate, signal.SIGTERM):
            app(prog_name="llmcausal")
    except LlmcausalError as error:
        _report(error)
        sys.exit(error.exit_code)
    except Exception as error:
        _report(error)
        typer.echo(f"This is a bug in llmcausal {__version__}; please report it.", err=True)
        sys.exit(1)
    finally:
        _flush_stdout()


def _terminate(number: int, frame: FrameType | None) -> None:
    """Ends the program as Ctrl-C does; by default Python releases no lock and closes no file."""
    raise SystemExit(128 + number)


def _report(error: Exception) -> None:
    from llmcausal.ui.console import print_error

    if isinstance(error, LlmcausalError) and error.told:
        return
    print_error(error)
    if os.environ.get("LLMCAUSAL_DEBUG") == "1" or "--debug" in sys.argv[1:]:
        traceback.print_exception(error)
    elif not isinstance(error, LlmcausalError):
        typer.echo(f"({type(error).__name__}; LLMCAUSAL_DEBUG=1 shows where)", err=True)


def _flush_stdout() -> None:
    """Flushes before Python does: a closed pipe must not cause a traceback."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
