"""`llmcausal resume`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmcausal.cli.options import Plain, examples, subcommand

app = subcommand()


@app.command(
    epilog=examples(
        "llmcausal resume runs/demo-cpu",
        "llmcausal resume runs/demo-cpu/checkpoint-24 --plain",
    )
)
def resume(
    target: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_OR_CHECKPOINT",
            help="A run directory (its newest sound checkpoint is taken) or one checkpoint.",
        ),
    ],
    plain: Plain = False,
    allow_changes: Annotated[
        bool,
        typer.Option(
            "--allow-changes", help="Go on although data, settings or chat template changed."
        ),
    ] = False,
) -> None:
    """Go on with an interrupted run, exactly where it stopped."""
    from llmcausal import assembly

    assembly.resume(target, plain=plain, allow_changes=allow_changes)
