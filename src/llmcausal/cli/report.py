"""`llmcausal report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmcausal.cli.options import AsJson, examples, print_json, reserved_stdout, subcommand

app = subcommand()

Runs = Annotated[
    list[Path],
    typer.Argument(metavar="RUN...", help="Run directories; one page compares several."),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FILE",
        help="Output file; by default RUN/report.html, or ./comparison.html for several runs.",
    ),
]


@app.command(
    epilog=examples(
        "llmcausal report runs/demo-cpu",
        "llmcausal report runs/demo-cpu runs/task-only --out both.html",
    )
)
def report(runs: Runs, out: Out = None, as_json: AsJson = False) -> None:
    """Write a run's HTML report, even while it trains, or compare several runs."""
    from llmcausal.ui.report.page import report_runs

    with reserved_stdout():
        written = report_runs(runs, out)
    if as_json:
        print_json({"report": str(written), "runs": [str(run) for run in runs]})
        return
    from llmcausal.ui.console import console

    console().print(f"report: {written}", soft_wrap=True, markup=False)
