"""Writes docs/cli.md from the command line itself; with --check only compares."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

import typer
from generated import cell, publish

from llmcausal.cli.app import app

HEADING = """\
# Commands

<!-- Made by docs/cli.py from the program; change the help texts there and run `make schema`. -->

Every command answers `--help`. `--json` prints one JSON object on stdout and nothing else; messages
go to stderr.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | `doctor` found a problem that prevents a run; or a bug |
| 2 | wrong usage, settings, data or model, or a disk or endpoint error |
| 3 | predicted not to fit in memory |
| 4 | memory ran out |
| 5 | the loss became non-finite |
| 6 | `monitor`: a share is above its limit or its baseline |
| 130, 143 | interrupted by Ctrl-C or SIGTERM; a step that has begun is finished and saved |

## Shell completion

    llmcausal --install-completion

installs completion of commands, options and shipped profiles' names for the current shell (bash,
zsh, fish, PowerShell); open a new shell afterwards. `llmcausal --show-completion` prints the script
for a manual installation.
"""


def main(arguments: list[str]) -> int:
    root: Any = typer.main.get_command(app)
    parts = [HEADING, *_pages(root, "llmcausal")]
    return publish("cli.md", "\n".join(parts), arguments)


def _pages(group: Any, path: str) -> Iterator[str]:
    context = typer.Context(group, info_name=path)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield _page(command, f"{path} {name}")
        if hasattr(command, "list_commands"):
            yield from _pages(command, f"{path} {name}")


def _page(command: Any, path: str) -> str:
    lines = [f"## {path}", "", cell(command.help or ""), ""]
    if not hasattr(command, "list_commands"):
        lines += [f"    {path} {' '.join(_usage(command))}", ""]
    for title, kind in (("argument", "argument"), ("option", "option")):
        shown = [p for p in command.params if p.param_type_name == kind and not p.hidden]
        if shown:
            lines += [f"| {title} | default | meaning |", "|---|---|---|"]
            lines += [_row(parameter) for parameter in shown]
            lines.append("")
    examples = re.sub(r"\[/?bold\]", "", command.epilog or "").splitlines()[1:]
    if examples:
        lines += ["Examples:", "", *(f"    {example.strip()}" for example in examples), ""]
    return "\n".join(lines)


def _usage(command: Any) -> Iterator[str]:
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            shown = parameter.metavar or parameter.name.upper()
            yield shown if parameter.required else f"[{shown}]"
    for parameter in command.params:
        if parameter.param_type_name == "option" and parameter.required:
            yield f"{parameter.opts[0]} {_metavar(parameter)}"
    yield "[OPTIONS]"


def _row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        name = f"`{parameter.metavar or parameter.name.upper()}`"
    else:
        spelled = [*parameter.opts, *parameter.secondary_opts]
        value = "" if parameter.is_flag else f" {_metavar(parameter)}"
        name = ", ".join(f"`{option}{value}`" for option in spelled)
    return f"| {cell(name)} | {cell(_default(parameter))} | {cell(parameter.help or '')} |"


def _metavar(parameter: Any) -> Any:
    is_number = parameter.type_descriptor.annotation in (int, float)
    return parameter.metavar or ("N" if is_number else "TEXT")


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if parameter.default in (None, "", False, ()):
        return ""
    if parameter.default is True:
        return f"`{parameter.opts[0]}`"
    return f"`{parameter.default}`"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
