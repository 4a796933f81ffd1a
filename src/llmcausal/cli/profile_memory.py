"""`llmcausal profile-memory`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; repeatable."),
]
SeqLen = Annotated[
    int | None,
    typer.Option(
        min=16, metavar="N", help="Tokens of each member, instead of the longest in the data."
    ),
]
Shared = Annotated[
    float | None,
    typer.Option(
        min=0, max=1, metavar="SHARE", help="Share of each member that is a common prefix."
    ),
]
VramGb = Annotated[
    float | None,
    typer.Option(
        min=0.5,
        metavar="G",
        help="Size of the card, here or elsewhere; the driver's share is subtracted.",
    ),
]
Strategy = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Predict this strategy; naive: the usual recipe, next to ours. The exit code "
        "describes the requested strategy.",
    ),
]
Sweep = Annotated[
    bool, typer.Option("--sweep", help="Also plan other lengths and micro-batches; minutes.")
]
Measure = Annotated[
    bool,
    typer.Option("--measure", help="Also run real steps and compare them with the prediction."),
]
Plot = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Draw the step's timeline to a .svg or .png file."),
]


@app.command(
    epilog=examples(
        "llmcausal profile-memory rtx4050 --vram-gb 6",
        "llmcausal profile-memory rtx4050 --seq-len 2048 --shared 0.5 --json",
        "llmcausal profile-memory rtx4050 --sweep --plot memory.svg",
        "llmcausal profile-memory demo-cpu --measure",
    )
)
def profile_memory(
    profile: Profile = "rtx4050",
    overrides: Overrides = None,
    seq_len: SeqLen = None,
    shared: Shared = None,
    vram_gb: VramGb = None,
    strategy: Strategy = None,
    sweep: Sweep = False,
    measure: Measure = False,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Predict the memory of a training step without its model or GPU; exit 3 if it does not fit."""
    from llmcausal import assembly
    from llmcausal.profile import load_config
    from llmcausal.ui.memory_plot import check_plot_path

    if plot is not None:
        check_plot_path(plot)
    config = load_config(profile, overrides or ())
    with reserved_stdout():
        result = assembly.profile_memory(
            config,
            seq_len=seq_len,
            shared=shared,
            vram_gb=vram_gb,
            strategy=strategy,
            sweep=sweep,
            measure=measure,
        )
    if plot is not None:
        from llmcausal.ui.memory_plot import plot_timeline

        plot_timeline(result, plot)
    if as_json:
        print_json(result)
    else:
        from llmcausal.ui.console import console
        from llmcausal.ui.memory_table import render_memory

        console().print(render_memory(result))
    raise typer.Exit(0 if result["fits"] else 3)
