"""`llmcausal export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmcausal.cli.options import (
    AsJson,
    Checkpoint,
    TrustRemoteCode,
    examples,
    print_json,
    reserved_stdout,
    subcommand,
)

app = subcommand()


@app.command(
    epilog=examples(
        "llmcausal export --checkpoint runs/demo-cpu/best --format adapter --out lora",
        "llmcausal export --checkpoint runs/demo-cpu/best --format merged --out model",
    )
)
def export(
    checkpoint: Checkpoint,
    target: Annotated[
        str,
        typer.Option(
            "--format", metavar="FORMAT", help="adapter, or merged (a whole model, not quantized)."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="New folder for the result.")],
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Write a trained checkpoint as an adapter or as a whole model."""
    from llmcausal import assembly

    with reserved_stdout():
        result = assembly.export(
            checkpoint, target=target, out=out, trust_remote_code=trust_remote_code
        )
    if as_json:
        print_json(result)
        return
    for key, value in result.items():
        typer.echo(f"{key}: {value}")
