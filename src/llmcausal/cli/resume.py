"""`llmcausal resume`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmcausal.cli.launch import launch
from llmcausal.cli.options import NumProcesses, Plain, examples, subcommand

app = subcommand()


@app.command(
    epilog=examples(
        "llmcausal resume runs/demo-cpu",
        "llmcausal resume runs/demo-cpu/checkpoint-24 --plain",
        "llmcausal resume runs/rtx4050 --num-processes 2",
    )
)
def resume(
    target: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_OR_CHECKPOINT",
            help="A run directory (resumes its newest intact checkpoint) or one checkpoint.",
        ),
    ],
    num_processes: NumProcesses = 1,
    plain: Plain = False,
    allow_changes: Annotated[
        bool,
        typer.Option(
            "--allow-changes", help="Continue although data, settings or chat template changed."
        ),
    ] = False,
) -> None:
    """Continue an interrupted run exactly where it stopped."""
    launch(num_processes)
    from llmcausal import assembly

    assembly.resume(target, plain=plain, allow_changes=allow_changes)
