from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmcausal.cli import options
from llmcausal.cli.options import option

app = options.subcommand()


@app.command(
    epilog=options.examples(
        "llmcausal report runs/demo-cpu",
        "llmcausal report runs/demo-cpu runs/task-only --out both.html",
    )
)
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run directories; one page compares several."),
    ],
    out: Annotated[
        Path | None,
        option(
            "FILE",
            "Output file; by default RUN/report.html, or ./comparison.html for several runs.",
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Write a run's HTML report, even while it trains, or compare several runs."""
    from llmcausal.ui.report.page import write_comparison, write_run_report

    with options.reserved_stdout():
        if len(runs) == 1:
            written = write_run_report(runs[0], out)
        else:
            written = write_comparison(runs, out or Path("comparison.html"))
    if as_json:
        options.print_json({"report": str(written), "runs": [str(run) for run in runs]})
        return
    from llmcausal.ui.console import console

    console().print(f"report: {written}", soft_wrap=True, markup=False)
