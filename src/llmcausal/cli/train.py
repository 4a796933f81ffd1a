"""`llmcausal train` and `llmcausal resume`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmcausal.cli import options
from llmcausal.cli.launch import launch
from llmcausal.cli.options import option

train_app = options.subcommand()
resume_app = options.subcommand()


@train_app.command(
    epilog=options.examples(
        "llmcausal train demo-cpu",
        "llmcausal train rtx4050 --set data.train=mine.jsonl --set train.epochs=1",
        "llmcausal train profiles/rtx4050.toml --output-dir /data/runs --plain",
        "llmcausal train rtx4050 --num-processes 2",
    )
)
def train(
    profile: options.Profile,
    overrides: options.Overrides = None,
    output_dir: Annotated[
        Path | None, option("DIR", "Folder that holds the run directories.")
    ] = None,
    debug: Annotated[
        bool, typer.Option("--debug", help="Train on a few samples with all checks and tracebacks.")
    ] = False,
    num_processes: options.NumProcesses = 1,
    plain: options.Plain = False,
) -> None:
    """Fine-tune a model on triplets and show it before and after."""
    launch(num_processes)
    from llmcausal.profile import load_config

    config = load_config(profile, overrides or ())
    if output_dir is not None:
        config = config.model_copy(update={"output_dir": output_dir})
    from llmcausal.assembly import training

    training.train(training.TrainRequest(config, plain, debug))


@resume_app.command(
    epilog=options.examples(
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
    num_processes: options.NumProcesses = 1,
    plain: options.Plain = False,
    allow_changes: Annotated[
        bool,
        typer.Option(
            "--allow-changes", help="Continue although data, settings or chat template changed."
        ),
    ] = False,
) -> None:
    """Continue an interrupted run exactly where it stopped."""
    launch(num_processes)
    from llmcausal.assembly import training

    training.resume(training.ResumeRequest(target, plain, allow_changes))
