from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmcausal.cli import options
from llmcausal.cli.options import option
from llmcausal.errors import UsageError

app = options.subcommand()


@app.command(
    epilog=options.examples(
        "llmcausal profile-memory rtx4050 --vram-gb 6",
        "llmcausal profile-memory rtx4050 --seq-len 2048 --shared 0.5 --json",
        "llmcausal profile-memory rtx4050 --sweep --plot memory.svg",
        "llmcausal profile-memory demo-cpu --measure",
        "llmcausal profile-memory rtx4050 --eval --seq-len 1024 --vram-gb 6",
    )
)
def profile_memory(
    profile: options.Profile = "rtx4050",
    overrides: options.Overrides = None,
    seq_len: Annotated[
        int | None,
        option("N", "Tokens of each member, instead of the longest in the data.", min=16),
    ] = None,
    shared: Annotated[
        float | None, option("SHARE", "Share of each member that is a common prefix.", min=0, max=1)
    ] = None,
    vram_gb: Annotated[
        float | None,
        option(
            "G", "Size of the card, here or elsewhere; the driver's share is subtracted.", min=0.5
        ),
    ] = None,
    strategy: Annotated[
        str | None,
        option(
            "NAME",
            "Predict this strategy; naive: the usual recipe, next to ours. The exit code "
            "describes the requested strategy.",
        ),
    ] = None,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Also plan other lengths and micro-batches; minutes.")
    ] = False,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Also run real steps and compare them with the prediction."),
    ] = False,
    evaluation: Annotated[
        bool,
        typer.Option(
            "--eval",
            help="Predict an evaluation instead, with the strategy that training would choose; "
            "--seq-len then counts a prompt's tokens.",
        ),
    ] = False,
    plot: Annotated[
        Path | None, option("FILE", "Draw the step's timeline to a .svg or .png file.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Predict the memory of a training step without its model or GPU; exit 3 if it does not fit.

    With --eval, predict an evaluation.
    """
    from llmcausal.profile import load_config
    from llmcausal.ui.drawings import check_plot_path
    from llmcausal.ui.memory_table import (
        PLOT_SUFFIXES,
        plot_timeline,
        render_evaluation,
        render_memory,
    )

    others = {"--sweep": sweep, "--measure": measure, "--plot": plot, "--strategy": strategy}
    if evaluation and (given := [name for name, value in others.items() if value]):
        raise UsageError(f"--eval and {given[0]} exclude one another: leave one out")
    if plot is not None:
        check_plot_path(plot, *PLOT_SUFFIXES)
    config = load_config(profile, overrides or ())
    with options.reserved_stdout():
        from llmcausal.assembly import memory_report
        from llmcausal.memory.report import MemoryRequest

        request = MemoryRequest(seq_len, shared, vram_gb, strategy, sweep, measure, evaluation)
        result = memory_report.profile_memory(config, request)
    if plot is not None:
        plot_timeline(result, plot)
    if as_json:
        options.print_json(result)
    else:
        from llmcausal.ui.console import console

        console().print(render_evaluation(result) if evaluation else render_memory(result))
    raise typer.Exit(0 if result["fits"] else 3)
