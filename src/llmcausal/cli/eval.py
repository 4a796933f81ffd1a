"""`llmcausal eval`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from llmcausal.cli import options
from llmcausal.cli.launch import launch
from llmcausal.errors import UsageError
from llmcausal.evaluation.adaptive import AdaptiveRequest, Search
from llmcausal.evaluation.suites import SUITES
from llmcausal.launched import process_index

app = options.subcommand()

_IN_MEMORY = ("against", "adaptive", "adaptive_from", "lora_scale", "num_processes")
_DEPLOYED = ("model", "tokenizer", "requests", "reuse")
"""Options that only one of the two kinds of evaluation knows."""


@app.command(
    epilog=options.examples(
        "llmcausal eval --checkpoint runs/demo-cpu/best",
        "llmcausal eval --checkpoint runs/demo-cpu/best --data mine.jsonl --json",
        "llmcausal eval --checkpoint runs/x/best --suite bipia --data BIPIA",
        "llmcausal eval --checkpoint best --suite sep --data SEP.json --attacks 6",
        "llmcausal eval --checkpoint runs/x/best --against runs/task-only/best",
        "llmcausal eval --checkpoint runs/x/best --adaptive 10",
        "llmcausal eval --checkpoint runs/x/best --adaptive 10 --adaptive-search random",
        "llmcausal eval --checkpoint b/best --adaptive 9 --adaptive-from a/evaluation",
        "llmcausal eval --checkpoint runs/x/best --lora-scale 0,0.5,1,1.25",
        "llmcausal eval --checkpoint runs/x/best --num-processes 4",
        "llmcausal eval --endpoint http://localhost:8000/v1 --model defended",
    )
)
def evaluate(
    context: typer.Context,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A checkpoint, such as RUN/best.")
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Evaluate the model deployed there, and compare it with --checkpoint if given. "
            "LLMCAUSAL_ENDPOINT_KEY holds the API key.",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="The model's name at the endpoint.")
    ] = None,
    api: Annotated[
        Literal["openai", "completions", "ollama"],
        typer.Option(help="openai and ollama send messages; completions sends token ids."),
    ] = "openai",
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Exported folder that renders the ids, if not --checkpoint."
        ),
    ] = None,
    requests: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Budget of requests to the endpoint.")
    ] = None,
    concurrency: Annotated[
        int, typer.Option(metavar="N", min=1, help="Simultaneous requests to the endpoint.")
    ] = 8,
    timeout: Annotated[
        float, typer.Option(metavar="N", min=0.1, help="Longest time for a request, in seconds.")
    ] = 120.0,
    patience: Annotated[
        float, typer.Option(metavar="N", min=0, help="Longest time for retries, in seconds.")
    ] = 300.0,
    reuse: Annotated[
        bool, typer.Option("--reuse", help="Use the stored answers of finished evaluations too.")
    ] = False,
    data: Annotated[
        str | None, typer.Option(metavar="PATH", help="The suite's file or folder, or `builtin`.")
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"Attacked prompts: {', '.join(SUITES.entries)}."),
    ] = None,
    no_baseline: Annotated[
        bool, typer.Option("--no-baseline", help="Do not evaluate the base model.")
    ] = False,
    answers_only: Annotated[
        bool, typer.Option("--answers-only", help="Skip perplexity and representations.")
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Compare with this checkpoint instead of the untouched base."
        ),
    ] = None,
    lora_scale: Annotated[
        str | None,
        typer.Option(
            metavar="N,N",
            help="Also measure with the adapter's update multiplied by these: 0 is the base, 1 "
            "the checkpoint.",
        ),
    ] = None,
    max_samples: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Use only the first N triplets.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Prompts to answer together.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Longest answer, in tokens.")
    ] = None,
    attacks: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            min=1,
            help="Attacks on each prompt of sep and alpaca_farm; one success counts.",
        ),
    ] = None,
    adaptive: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Also search attacks against N prompts; minutes each."
        ),
    ] = None,
    adaptive_steps: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Maximum steps of each search: 20 find what is easy, published attacks use 500.",
        ),
    ] = AdaptiveRequest.steps,
    adaptive_search: Annotated[
        Search, typer.Option(help="Search with the gradient (gcg) or without it (random).")
    ] = "gcg",
    adaptive_samples: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Sampled answers besides the greedy one; any that obeys counts.",
        ),
    ] = AdaptiveRequest.samples,
    adaptive_from: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Begin with what an earlier result found: its results.json or folder.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for the result; by default next to the checkpoint, or in runs.",
        ),
    ] = None,
    num_processes: options.NumProcesses = 1,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.AsJson = False,
) -> None:
    """Measure attack success, utility and causal metrics of a checkpoint or a deployed model.

    Answers are kept, so an interrupted evaluation can continue.
    """
    _refuse(context.params)
    launch(num_processes)
    shared: dict[str, Any] = {
        "data": data,
        "suite": suite,
        "baseline": not no_baseline,
        "settings": {
            "max_samples": max_samples,
            "batch_size": batch_size,
            "max_new_tokens": max_new_tokens,
            "attacks": attacks,
        },
        "trust_remote_code": trust_remote_code,
        "out": out,
    }
    with options.reserved_stdout():
        if endpoint is not None and model is not None:
            from llmcausal.assembly import endpoint as deployed
            from llmcausal.evaluation.endpoint import RequestPace

            pace = RequestPace(requests, concurrency, timeout, patience)
            result = deployed.evaluate_endpoint(
                deployed.EndpointRequest(
                    endpoint, model, api, tokenizer, checkpoint, pace, reuse, **shared
                )
            )
        elif checkpoint is not None:
            from llmcausal.assembly import evaluating

            search, scales = None, _scales(lora_scale)
            if adaptive is not None:
                search = AdaptiveRequest(
                    adaptive,
                    adaptive_steps,
                    search=adaptive_search,
                    samples=adaptive_samples,
                    earlier=adaptive_from,
                )
            result = evaluating.evaluate_checkpoint(
                evaluating.EvaluationRequest(
                    checkpoint, not answers_only, against, search, scales, **shared
                )
            )
    if process_index():
        return
    if as_json:
        options.print_json(result)
        return
    from llmcausal.ui.console import console
    from llmcausal.ui.tables import render_evaluation

    console().print(render_evaluation(result))
    console().print(f"report: {result['report']}", soft_wrap=True)


def _scales(text: str | None) -> tuple[float, ...]:
    try:
        scales = tuple(float(each) for each in (text or "").split(",") if each.strip())
        if (not scales and text is not None) or not all(0 <= each <= 10 for each in scales):
            raise ValueError
    except ValueError:
        raise UsageError(f"--lora-scale {text}: give numbers from 0 to 10: 0,0.5,1") from None
    return scales


def _refuse(given: Mapping[str, Any]) -> None:
    """Refuses options that do not go together.

    Raises:
        UsageError: With the option that is too much, or missing.
    """
    deployed = given["endpoint"] is not None
    if not deployed and given["checkpoint"] is None:
        raise UsageError("give --checkpoint DIR, or --endpoint URL with --model NAME")
    if deployed and given["model"] is None:
        raise UsageError("--endpoint needs --model NAME, the model's name there")
    for name in _IN_MEMORY if deployed else _DEPLOYED:
        if given[name] and (name, given[name]) != ("num_processes", 1):
            where = "with --endpoint" if deployed else "without --endpoint"
            raise UsageError(f"--{name.replace('_', '-')} does not go {where}; leave it out")
    if given["adaptive_from"] is not None and given["adaptive"] is None:
        raise UsageError("--adaptive-from says what a search begins with: give --adaptive N too")
