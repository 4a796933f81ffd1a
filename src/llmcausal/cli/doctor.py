from __future__ import annotations

import typer

from llmcausal.cli import options

app = options.subcommand()


@app.command(
    epilog=options.examples(
        "llmcausal doctor",
        "llmcausal doctor demo-cpu",
        "llmcausal doctor profiles/rtx4050.toml --json",
    )
)
def doctor(profile: options.Profile = "rtx4050", as_json: options.AsJson = False) -> None:
    """Check that this machine can train a profile, and show how to fix problems.

    Each check prints one line: pass, warning or fail, with the fix. Exit 1 if a check failed.
    """
    from dataclasses import asdict

    from llmcausal.assembly.doctoring import examine
    from llmcausal.diagnostics.check import DoctorReport
    from llmcausal.profile import load_config
    from llmcausal.ui.checks import show_checks, watcher

    running = examine(load_config(profile), watcher())
    if as_json:
        with options.reserved_stdout():
            checks = list(running)
    else:
        checks = show_checks(running)
    ok = all(check.status != "fail" for check in checks)
    if as_json:
        options.print_json(asdict(DoctorReport(profile, ok, checks)))
    raise typer.Exit(0 if ok else 1)
