"""`llmcausal data`: build, validate, stats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmcausal.cli.options import examples, subcommand

app = subcommand(
    help="Build, validate and describe triplet files.",
    no_args_is_help=True,
    epilog=examples(
        "llmcausal data build --split train --count 100 --out train.jsonl",
        "llmcausal data validate train.jsonl",
        "llmcausal data stats train.jsonl",
    ),
)

File = Annotated[Path, typer.Argument(metavar="FILE", help="Triplet file, such as JSONL.")]


@app.command(
    epilog=examples(
        "llmcausal data build --split train --count 500 --out train.jsonl",
        "llmcausal data build --split test --count 40 --seed 7 --out test.jsonl",
    )
)
def build(
    split: Annotated[
        str, typer.Option(metavar="SPLIT", help="train, validation or test: no shared scenario.")
    ],
    count: Annotated[int, typer.Option(min=1, help="How many triplets.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="New JSONL file.")],
    seed: Annotated[int, typer.Option(help="Seed of the generator.")] = 0,
) -> None:
    """Write triplets of the built-in generator as canonical JSONL."""
    from llmcausal.assembly import datasets
    from llmcausal.ui.console import console

    written = datasets.build(split, count, seed, out)
    console().print(f"{out}: {written} triplets of the {split} split", soft_wrap=True)


@app.command(
    epilog=examples(
        "llmcausal data validate train.jsonl",
        "llmcausal data validate train.jsonl --model rtx4050",
    )
)
def validate(
    file: File,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="PROFILE", help="Also count what is too long for this profile's model."
        ),
    ] = None,
) -> None:
    """Read a triplet file wholly and report every defect as file:line: field: reason."""
    from llmcausal.assembly import datasets
    from llmcausal.profile import load_config
    from llmcausal.ui.console import clean, console

    config = load_config(model) if model is not None else None
    triplets, ledger = datasets.validate(file, config)
    console().print(f"{file}: {len(triplets)} triplets, no defect", soft_wrap=True)
    if ledger is not None and config is not None:
        fits = f"every triplet fits into {config.data.max_length} tokens a member"
        for line in ledger.summary() or [fits]:
            console().print(clean(line), soft_wrap=True)


@app.command(epilog=examples("llmcausal data stats train.jsonl"))
def stats(file: File) -> None:
    """Count triplets by category and attack family, and measure their texts."""
    from rich.table import Table

    from llmcausal.assembly import datasets
    from llmcausal.ui.console import console, one_line

    summary = datasets.stats(file)
    target = console()
    target.print(
        f"{file}: {summary.count} triplets, {summary.checked} with an answer check, "
        f"{summary.witnessed} with an attack witness",
        soft_wrap=True,
    )
    for title, counts in (("category", summary.categories), ("attack family", summary.families)):
        table = Table(title, "triplets")
        for name, number in counts.items():
            table.add_row(one_line(name, 60) or "(none)", str(number))
        target.print(table)
    table = Table("characters", "shortest", "median", "longest")
    for name, lengths in summary.lengths.items():
        table.add_row(name, str(lengths.shortest), str(lengths.median), str(lengths.longest))
    target.print(table)
