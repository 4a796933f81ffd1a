"""`llmcausal train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmcausal.cli.launch import launch
from llmcausal.cli.options import NumProcesses, Plain, Profile, examples, subcommand

app = subcommand()


@app.command(
    epilog=examples(
        "llmcausal train demo-cpu",
        "llmcausal train rtx4050 --set data.train=mine.jsonl --set train.epochs=1",
        "llmcausal train profiles/rtx4050.toml --output-dir /data/runs --plain",
        "llmcausal train rtx4050 --num-processes 2",
    )
)
def train(
    profile: Profile,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; repeatable."),
    ] = None,
    output_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder that holds the run directories.")
    ] = None,
    debug: Annotated[
        bool, typer.Option("--debug", help="Train on a few samples with all checks and tracebacks.")
    ] = False,
    num_processes: NumProcesses = 1,
    plain: Plain = False,
) -> None:
    """Fine-tune a model on triplets and show it before and after."""
    launch(num_processes)
    from llmcausal import assembly
    from llmcausal.profile import load_config

    config = load_config(profile, overrides or ())
    if output_dir is not None:
        config = config.model_copy(update={"output_dir": output_dir})
    assembly.train(config, plain=plain, debug=debug)
