"""`llmcausal eval`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from llmcausal.cli.launch import launch
from llmcausal.cli.options import (
    AsJson,
    NumProcesses,
    TrustRemoteCode,
    examples,
    print_json,
    reserved_stdout,
    subcommand,
)
from llmcausal.errors import UsageError
from llmcausal.evaluation.adaptive import AdaptiveRequest, Search
from llmcausal.evaluation.suites import SUITES
from llmcausal.launched import process_index

app = subcommand()

Checkpoint = Annotated[
    Path | None, typer.Option(metavar="DIR", help="A checkpoint, such as RUN/best.")
]
EndpointUrl = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        metavar="URL",
        help="Evaluate the model deployed there, and compare it with --checkpoint if given. "
        "LLMCAUSAL_ENDPOINT_KEY holds the API key.",
    ),
]
Model = Annotated[
    str | None, typer.Option(metavar="NAME", help="The model's name at the endpoint.")
]
Kind = Annotated[
    Literal["openai", "completions", "ollama"],
    typer.Option("--api", help="openai and ollama send messages; completions sends token ids."),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Exported folder that renders the ids, if not --checkpoint."),
]
Requests = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Budget of requests to the endpoint.")
]
Concurrency = Annotated[
    int, typer.Option(metavar="N", min=1, help="Simultaneous requests to the endpoint.")
]
RequestSeconds = Annotated[
    float,
    typer.Option("--timeout", metavar="N", min=0.1, help="Longest time for a request, in seconds."),
]
Patience = Annotated[
    float,
    typer.Option(metavar="N", min=0, help="Longest time for retries, in seconds."),
]
Reuse = Annotated[
    bool, typer.Option("--reuse", help="Use the stored answers of finished evaluations too.")
]
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
    typer.Option(help="Search with the gradient (gcg) or without it (random)."),
]
AdaptiveSamples = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=0,
        help="Answers drawn beside the greedy one; any that obeys counts.",
    ),
]
AdaptiveFrom = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="Begin with what an earlier result found: its results.json or folder.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder for the result; by default next to the checkpoint, or in runs.",
    ),
]

_IN_MEMORY = ("against", "adaptive", "adaptive_from", "num_processes")
_DEPLOYED = ("model", "tokenizer", "requests", "reuse")
"""Options that only one of the two kinds of evaluation knows."""


@app.command(
    epilog=examples(
        "llmcausal eval --checkpoint runs/demo-cpu/best",
        "llmcausal eval --checkpoint runs/demo-cpu/best --data mine.jsonl --json",
        "llmcausal eval --checkpoint runs/x/best --suite bipia --data BIPIA",
        "llmcausal eval --checkpoint best --suite sep --data SEP.json --attacks 6",
        "llmcausal eval --checkpoint runs/x/best --against runs/task-only/best",
        "llmcausal eval --checkpoint runs/x/best --adaptive 10",
        "llmcausal eval --checkpoint runs/x/best --adaptive 10 --adaptive-search random",
        "llmcausal eval --checkpoint b/best --adaptive 9 --adaptive-from a/evaluation",
        "llmcausal eval --checkpoint runs/x/best --num-processes 4",
        "llmcausal eval --endpoint http://localhost:8000/v1 --model defended",
    )
)
def evaluate(
    context: typer.Context,
    checkpoint: Checkpoint = None,
    endpoint: EndpointUrl = None,
    model: Model = None,
    api: Kind = "openai",
    tokenizer: Tokenizer = None,
    requests: Requests = None,
    concurrency: Concurrency = 8,
    timeout: RequestSeconds = 120.0,
    patience: Patience = 300.0,
    reuse: Reuse = False,
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
    adaptive_search: AdaptiveSearch = "gcg",
    adaptive_samples: AdaptiveSamples = AdaptiveRequest.samples,
    adaptive_from: AdaptiveFrom = None,
    out: Out = None,
    num_processes: NumProcesses = 1,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Measure attack success, utility and causal metrics of a checkpoint or a deployed model.

    Answers are kept, so an interrupted evaluation can continue.
    """
    _refuse(context.params)
    launch(num_processes)
    with reserved_stdout():
        result = _deployed(context.params) if endpoint else _in_memory(context.params)
    if as_json and not process_index():
        print_json(result)
    if as_json or process_index():
        return
    from llmcausal.ui.console import console
    from llmcausal.ui.tables import render_evaluation

    console().print(render_evaluation(result))
    console().print(f"report: {result['report']}", soft_wrap=True)


def _refuse(options: Mapping[str, Any]) -> None:
    """Refuses options that do not go together.

    Raises:
        UsageError: With the option that is too much, or missing.
    """
    deployed = options["endpoint"] is not None
    if not deployed and options["checkpoint"] is None:
        raise UsageError("give --checkpoint DIR, or --endpoint URL with --model NAME")
    if deployed and options["model"] is None:
        raise UsageError("--endpoint needs --model NAME, the model's name there")
    for name in _IN_MEMORY if deployed else _DEPLOYED:
        if options[name] and (name, options[name]) != ("num_processes", 1):
            where = "with --endpoint" if deployed else "without --endpoint"
            raise UsageError(f"--{name.replace('_', '-')} does not go {where}; leave it out")


def _in_memory(options: Mapping[str, Any]) -> dict[str, Any]:
    from llmcausal import assembly

    adaptive = None
    if options["adaptive"] is not None:
        steps, search, samples, earlier = (
            options[f"adaptive_{name}"] for name in ("steps", "search", "samples", "from")
        )
        adaptive = AdaptiveRequest(
            options["adaptive"], steps, search=search, samples=samples, earlier=earlier
        )
    elif options["adaptive_from"] is not None:
        raise UsageError("--adaptive-from says what a search begins with: give --adaptive N too")
    return assembly.evaluate(
        options["checkpoint"],
        reads=not options["answers_only"],
        against=options["against"],
        adaptive=adaptive,
        **_shared(options),
    )


def _deployed(options: Mapping[str, Any]) -> dict[str, Any]:
    from llmcausal import assembly
    from llmcausal.evaluation.endpoint import RequestPace

    pace = RequestPace(
        *(options[name] for name in ("requests", "concurrency", "timeout", "patience"))
    )
    return assembly.evaluate_endpoint(
        options["endpoint"],
        options["model"],
        api=options["api"],
        tokenizer=options["tokenizer"],
        checkpoint=options["checkpoint"],
        pace=pace,
        reuse=options["reuse"],
        **_shared(options),
    )


def _shared(options: Mapping[str, Any]) -> dict[str, Any]:
    settings = ("max_samples", "batch_size", "max_new_tokens", "attacks")
    return {
        **{name: options[name] for name in ("data", "suite", "trust_remote_code", "out")},
        "baseline": not options["no_baseline"],
        "settings": {name: options[name] for name in settings},
    }
