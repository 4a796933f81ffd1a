"""`llmcausal eval`."""

from __future__ import annotations

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
        "llmcausal eval --checkpoint runs/demo-cpu/best",
        "llmcausal eval --checkpoint runs/demo-cpu/best --data mine.jsonl --json",
    )
)
def evaluate(
    checkpoint: Checkpoint,
    data: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Triplet JSONL to evaluate on, or `builtin`."),
    ] = None,
    suite: Annotated[
        str | None, typer.Option(metavar="NAME", help="Suite of attacked prompts.")
    ] = None,
    no_baseline: Annotated[
        bool, typer.Option("--no-baseline", help="Leave out the base model beside it.")
    ] = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Measure attack success, utility and causal metrics of a checkpoint."""
    from llmcausal import assembly
    from llmcausal.ui.console import stderr_progress

    with reserved_stdout():
        result = assembly.evaluate(
            checkpoint,
            data=data,
            suite=suite,
            baseline=not no_baseline,
            trust_remote_code=trust_remote_code,
            progress=stderr_progress,
        )
    if as_json:
        print_json(result)
        return
    from llmcausal.ui.console import console
    from llmcausal.ui.tables import render_evaluation

    console().print(render_evaluation(result))
