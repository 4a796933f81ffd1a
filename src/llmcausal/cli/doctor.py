"""`llmcausal doctor`."""

from __future__ import annotations

import typer

from llmcausal.cli.options import (
    AsJson,
    Profile,
    examples,
    print_json,
    reserved_stdout,
    subcommand,
)

app = subcommand()

COLORS = {"pass": "green", "warning": "yellow", "fail": "bold red"}


@app.command(
    epilog=examples(
        "llmcausal doctor",
        "llmcausal doctor demo-cpu",
        "llmcausal doctor profiles/rtx4050.toml --json",
    )
)
def doctor(
    profile: Profile = "rtx4050",
    as_json: AsJson = False,
) -> None:
    """Check that this machine can train a profile, and say how to mend what is wrong."""
    from dataclasses import asdict

    from rich.text import Text

    from llmcausal.diagnostics.doctor import diagnose
    from llmcausal.profile import load_config
    from llmcausal.ui.console import console, one_line

    config = load_config(profile)
    with reserved_stdout():
        checks = diagnose(config)
    failed = [check for check in checks if check.status == "fail"]
    if as_json:
        print_json({"profile": profile, "ok": not failed, "checks": [asdict(c) for c in checks]})
    else:
        for check in checks:
            fix = f" -> {check.fix}" if check.fix else ""
            status = Text(f"{check.status:<8}", COLORS[check.status])
            line = f"{check.name:<14} {one_line(check.detail)}{fix}"
            console().print(status.append(line, ""), soft_wrap=True)
    raise typer.Exit(1 if failed else 0)
