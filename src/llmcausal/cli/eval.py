"""`llmcausal eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmcausal.cli.launch import launch
from llmcausal.cli.options import (
    AsJson,
    Checkpoint,
    NumProcesses,
    TrustRemoteCode,
    examples,
    print_json,
    reserved_stdout,
    subcommand,
)
from llmcausal.errors import UsageError
from llmcausal.evaluation.adaptive.request import AdaptiveRequest, Search
from llmcausal.evaluation.suites import SUITES
from llmcausal.launched import process_index

app = subcommand()

Data = Annotated[
    str | None,
    typer.Option(metavar="PATH", help="The suite's file or folder, or `builtin`."),
]
Suite = Annotated[
    str | None,
    typer.Option(metavar="NAME", help=f"Attacked prompts: {', '.join(SUITES.entries)}."),
]
Against = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Compare with this checkpoint instead of the untouched base."),
]
MaxSamples = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Use only the first N triplets.")
]
BatchSize = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Prompts to answer together.")
]
MaxNewTokens = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Longest answer, in tokens.")
]
Attacks = Annotated[
    int | None,
    typer.Option(
        metavar="K",
        min=1,
        help="Attacks on each prompt of sep and alpaca_farm; one success counts.",
    ),
]
Adaptive = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Also search attacks against N prompts; minutes each."),
]
NoBaseline = Annotated[bool, typer.Option("--no-baseline", help="Do not evaluate the base model.")]
AnswersOnly = Annotated[
    bool, typer.Option("--answers-only", help="Skip perplexity and representations.")
]
AdaptiveSteps = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=1,
        help="Maximum steps of each search: 20 find what is easy, published attacks use 500.",
    ),
]
AdaptiveSearch = Annotated[
    Search,
    typer.Option(
        "--adaptive-search", help="Search with the gradient (gcg) or without it (random)."
    ),
]
AdaptiveSamples = Annotated[
    int,
    typer.Option(
        "--adaptive-samples",
        metavar="N",
        min=0,
        help="Answers drawn beside the greedy one; any that obeys counts.",
    ),
]
AdaptiveFrom = Annotated[
    Path | None,
    typer.Option(
        "--adaptive-from",
        metavar="PATH",
        help="Begin with what an earlier result found: its results.json or folder.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder for the result; by default next to the checkpoint."),
]


@app.command(
    epilog=examples(
        "llmcausal eval --checkpoint runs/demo-cpu/best",
        "llmcausal eval --checkpoint runs/demo-cpu/best --data mine.jsonl --json",
        "llmcausal eval --checkpoint runs/x/best --suite bipia --data BIPIA",
        "llmcausal eval --checkpoint best --suite sep --data SEP.json --attacks 6",
        "llmcausal eval --checkpoint runs/x/best --against runs/task-only/best",
        "llmcausal eval --checkpoint runs/x/best --adaptive 10",
        "llmcausal eval --checkpoint runs/x/best --adaptive 10 --adaptive-search random",
        "llmcausal eval --checkpoint runs/x/best --adaptive 10 --adaptive-from runs/y/evaluation",
        "llmcausal eval --checkpoint runs/x/best --num-processes 4",
    )
)
def evaluate(
    checkpoint: Checkpoint,
    data: Data = None,
    suite: Suite = None,
    no_baseline: NoBaseline = False,
    answers_only: AnswersOnly = False,
    against: Against = None,
    max_samples: MaxSamples = None,
    batch_size: BatchSize = None,
    max_new_tokens: MaxNewTokens = None,
    attacks: Attacks = None,
    adaptive: Adaptive = None,
    adaptive_steps: AdaptiveSteps = AdaptiveRequest.steps,
    search: AdaptiveSearch = "gcg",
    samples: AdaptiveSamples = AdaptiveRequest.samples,
    earlier: AdaptiveFrom = None,
    out: Out = None,
    num_processes: NumProcesses = 1,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Measure attack success, utility and causal metrics of a checkpoint.

    Answers are kept, so an interrupted evaluation can continue.
    """
    launch(num_processes)
    from llmcausal import assembly

    request = _adaptive(adaptive, adaptive_steps, search, samples, earlier)
    with reserved_stdout():
        result = assembly.evaluate(
            checkpoint,
            data=data,
            suite=suite,
            baseline=not no_baseline,
            reads=not answers_only,
            trust_remote_code=trust_remote_code,
            against=against,
            settings={
                "max_samples": max_samples,
                "batch_size": batch_size,
                "max_new_tokens": max_new_tokens,
                "attacks": attacks,
            },
            adaptive=request,
            out=out,
        )
    if as_json and not process_index():
        print_json(result)
    if as_json or process_index():
        return
    from llmcausal.ui.console import console
    from llmcausal.ui.tables import render_evaluation

    console().print(render_evaluation(result))
    console().print(f"report: {result['report']}", soft_wrap=True)


def _adaptive(
    prompts: int | None, steps: int, search: Search, samples: int, earlier: Path | None
) -> AdaptiveRequest | None:
    if prompts is not None:
        return AdaptiveRequest(prompts, steps, search=search, samples=samples, earlier=earlier)
    if earlier is not None:
        raise UsageError("--adaptive-from says what a search begins with: give --adaptive N too")
    return None
