"""`llmcausal data`: build, validate, stats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmcausal.cli import options
from llmcausal.cli.options import option

app = options.subcommand(
    help="Build, validate and describe triplet files.",
    no_args_is_help=True,
    epilog=options.examples(
        "llmcausal data build --split train --count 100 --out train.jsonl",
        "llmcausal data build --from squad dev.json --split train --out train.jsonl",
        "llmcausal data validate train.jsonl --against test.jsonl",
        "llmcausal data stats train.jsonl --plot train.html",
    ),
)


@app.command(
    epilog=options.examples(
        "llmcausal data build --split train --count 500 --out train.jsonl",
        "llmcausal data build --from alpaca alpaca.json --split train --out train.jsonl",
        "llmcausal data build --from bipia BIPIA --split test --out bipia.jsonl",
    )
)
def build(
    split: Annotated[
        str, option("SPLIT", "Scenarios, phrasings and goals to use: train, validation or test.")
    ],
    out: Annotated[Path, option("FILE", "New JSONL file.")],
    path: Annotated[
        Path | None,
        typer.Argument(metavar="FILE_OR_FOLDER", help="File or folder that --from reads."),
    ] = None,
    source: Annotated[
        str,
        option(
            "NAME",
            "alpaca, bipia, chat, csv, jsonl or squad; without it, the built-in generator.",
            "--from",
        ),
    ] = "",
    count: Annotated[
        int | None,
        option("N", "Number of triplets; with --from, one per example by default.", min=1),
    ] = None,
    seed: Annotated[int, option("N", "Seed for every choice.")] = 0,
    families: Annotated[str, option("A,B", "Attack families; by default all in the split.")] = "",
    positions: Annotated[str, option("A,B", "Places for attacks: start, middle, end.")] = "",
    counterfactual: Annotated[
        str,
        option(
            "KIND",
            "other_input (another example), slot_edit (other numbers, dates and names; for "
            "answers that are looked up, not computed), rephrase (other words, by rules) or "
            "model (the words of --model).",
        ),
    ] = "other_input",
    model: Annotated[
        str,
        option(
            "PROFILE",
            "Profile of the model for --counterfactual model and --answers model.",
            autocompletion=options.complete_profile,
        ),
    ] = "",
    answers: Annotated[
        str,
        option(
            "KIND",
            "given (the source's), or model: --model answers what no check verifies, and "
            "obeys each attack for loss.lambda_swap. The source then needs no answers.",
        ),
    ] = "given",
    attacks: Annotated[
        Path | None, option("FILE", "JSON or JSONL file with your own attack goals.")
    ] = None,
    columns: Annotated[
        list[str] | None,
        option(
            "FIELD=COLUMN",
            "csv, jsonl: the column that holds document, question, response, answer, system, "
            "category, contains or id; repeatable.",
            "--map",
        ),
    ] = None,
    system: Annotated[str, option("TEXT", "System prompt, instead of the source's own.")] = "",
) -> None:
    """Make triplets from your data or generate them; write JSONL and its recipe."""
    from llmcausal.assembly import datasets
    from llmcausal.data.sources.tables import parse_map
    from llmcausal.ui.console import clean, console
    from llmcausal.ui.data_report import LateProgress

    chosen = datasets.parse_options(split, seed, count, families, positions, counterfactual)
    request = datasets.BuildRequest(
        out=out,
        options=chosen,
        source=source,
        path=path,
        columns=parse_map(columns or []),
        system=system,
        attacks=attacks,
        model=model,
        answers=answers,
    )
    for line in datasets.build(request, LateProgress()):
        console().print(clean(line), soft_wrap=True)


@app.command(
    epilog=options.examples(
        "llmcausal data validate train.jsonl",
        "llmcausal data validate train.jsonl --model rtx4050",
        "llmcausal data validate test.jsonl --against builtin:train",
        "llmcausal data validate train.jsonl test.jsonl --json",
    )
)
def validate(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Triplet files, such as JSONL.")
    ],
    against: Annotated[
        list[str] | None,
        option(
            "FILE|builtin:SPLIT",
            "Data that must share no scenario or phrasing with the files; repeatable.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        option(
            "PROFILE",
            "Also count triplets that are too long for this profile's model.",
            autocompletion=options.complete_profile,
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Report every defect, duplicate and leak as file:line: field: reason."""
    from llmcausal.assembly import datasets
    from llmcausal.profile import load_config
    from llmcausal.ui.console import clean, console, err_console
    from llmcausal.ui.data_report import LateProgress, finding_lines, verdict

    with options.reserved_stdout():
        config = load_config(model) if model is not None else None
        result = datasets.validate(files, against or [], config, LateProgress())
    if as_json:
        options.print_json(result.as_dict())
        raise typer.Exit(2 if result.has_errors else 0)
    for line in finding_lines(result.findings, "error"):
        err_console().print(line, soft_wrap=True)
    for line in (
        *finding_lines(result.findings, "warning"),
        *finding_lines(result.findings, "note"),
        *map(clean, result.length_lines()),
        *(verdict(result.findings, file, count) for file, count in result.counts.items()),
    ):
        console().print(line, soft_wrap=True)
    raise typer.Exit(2 if result.has_errors else 0)


@app.command(
    epilog=options.examples(
        "llmcausal data stats train.jsonl",
        "llmcausal data stats train.jsonl --plot train.html",
        "llmcausal data stats train.jsonl --json",
    )
)
def stats(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Triplet file, such as JSONL.")],
    plot: Annotated[Path | None, option("FILE", "Also draw the figures, as .html or .svg.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Count triplets by category, family, goal, position and more, and measure their texts."""
    from dataclasses import asdict

    from llmcausal.data.formats import read_triplets
    from llmcausal.data.summary import summarize
    from llmcausal.ui.console import console
    from llmcausal.ui.data_report import PLOT_SUFFIXES, plot_summary, render_summary
    from llmcausal.ui.drawings import check_plot_path

    if plot is not None:
        check_plot_path(plot, *PLOT_SUFFIXES)
    summary = summarize(read_triplets(file))
    if plot is not None:
        plot_summary(summary, str(file), plot)
    if as_json:
        options.print_json({"file": str(file), **asdict(summary)})
        return
    console().print(render_summary(summary, str(file)), soft_wrap=True)
    if plot is not None:
        console().print(f"drawn: {plot}", soft_wrap=True)
