from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from llmcausal.cli import options
from llmcausal.cli.launch import launch
from llmcausal.cli.options import option
from llmcausal.errors import UsageError
from llmcausal.evaluation.adaptive import AdaptiveRequest, Search
from llmcausal.evaluation.suites import SUITES
from llmcausal.launched import process_index

app = options.subcommand()

_IN_MEMORY = ("against", "adaptive", "adaptive_from", "lora_scale", "num_processes")
"""Options that do not apply to a deployed model."""
_DEPLOYED = ("model", "tokenizer", "requests", "reuse", "baseline_endpoint", "baseline_model")
"""Options that apply only to a deployed model."""


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
        "llmcausal eval --endpoint http://gpu:8000/v1 --model new --baseline-model old",
    )
)
def evaluate(
    context: typer.Context,
    checkpoint: Annotated[Path | None, option("DIR", "A checkpoint, such as RUN/best.")] = None,
    endpoint: Annotated[
        str | None,
        option(
            "URL",
            "Evaluate the model deployed there, and compare it with --baseline-model or else "
            "--checkpoint, if given. LLMCAUSAL_ENDPOINT_KEY holds the API key.",
        ),
    ] = None,
    model: Annotated[str | None, option("NAME", "The model's name at the endpoint.")] = None,
    baseline_model: Annotated[
        str | None, option("NAME", "Compare with this model, deployed at the same endpoint.")
    ] = None,
    baseline_endpoint: Annotated[
        str | None,
        option(
            "URL",
            "Where --baseline-model is deployed, if elsewhere. LLMCAUSAL_BASELINE_ENDPOINT_KEY "
            "holds its API key.",
        ),
    ] = None,
    api: options.ApiName = "openai",
    tokenizer: Annotated[
        str | None, option("DIR", "Exported folder that renders the ids, if not --checkpoint.")
    ] = None,
    requests: Annotated[
        int | None, option("N", "Budget of requests, which --baseline-model shares.", min=1)
    ] = None,
    concurrency: Annotated[int, option("N", "Simultaneous requests to the endpoint.", min=1)] = 8,
    timeout: options.Timeout = 120.0,
    patience: options.Patience = 300.0,
    reuse: Annotated[
        bool, typer.Option("--reuse", help="Use the stored answers of finished evaluations too.")
    ] = False,
    data: Annotated[str | None, option("PATH", "The suite's file or folder, or `builtin`.")] = None,
    suite: Annotated[
        str | None, option("NAME", f"Attacked prompts: {', '.join(SUITES.entries)}.")
    ] = None,
    no_baseline: Annotated[
        bool, typer.Option("--no-baseline", help="Do not evaluate the base model.")
    ] = False,
    answers_only: Annotated[
        bool, typer.Option("--answers-only", help="Skip perplexity and representations.")
    ] = False,
    against: Annotated[
        Path | None, option("DIR", "Compare with this checkpoint instead of the untouched base.")
    ] = None,
    lora_scale: Annotated[
        str | None,
        option(
            "N,N",
            "Also measure with the adapter's update multiplied by these: 0 is the base, 1 the "
            "checkpoint.",
        ),
    ] = None,
    max_samples: Annotated[int | None, option("N", "Use only the first N triplets.", min=1)] = None,
    batch_size: Annotated[int | None, option("N", "Prompts to answer together.", min=1)] = None,
    max_new_tokens: Annotated[int | None, option("N", "Longest answer, in tokens.", min=1)] = None,
    attacks: Annotated[
        int | None,
        option("K", "Attacks on each prompt of sep and alpaca_farm; one success counts.", min=1),
    ] = None,
    adaptive: Annotated[
        int | None, option("N", "Also search attacks against N prompts; minutes each.", min=1)
    ] = None,
    adaptive_steps: Annotated[
        int,
        option(
            "N",
            "Maximum steps of each search: 20 find what is easy, published attacks use 500.",
            min=1,
        ),
    ] = AdaptiveRequest.steps,
    adaptive_search: Annotated[
        Search, typer.Option(help="Search with the gradient (gcg) or without it (random).")
    ] = "gcg",
    adaptive_samples: Annotated[
        int, option("N", "Sampled answers besides the greedy one; any that obeys counts.", min=0)
    ] = AdaptiveRequest.samples,
    adaptive_from: Annotated[
        Path | None,
        option("PATH", "Begin with what an earlier result found: its results.json or folder."),
    ] = None,
    out: Annotated[
        Path | None,
        option("DIR", "Folder for the result; by default next to the checkpoint, or in runs."),
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
            from llmcausal.assembly.endpoint import EndpointRequest, evaluate_endpoint
            from llmcausal.evaluation.endpoint import RequestPace

            pace = RequestPace(requests, concurrency, timeout, patience)
            result = evaluate_endpoint(
                EndpointRequest(
                    endpoint,
                    model,
                    api,
                    tokenizer,
                    checkpoint,
                    pace,
                    reuse,
                    baseline_model,
                    baseline_endpoint,
                    **shared,
                )
            )
        elif checkpoint is not None:
            from llmcausal.assembly.evaluating import EvaluationRequest, evaluate_checkpoint

            search, scales = None, _scales(lora_scale)
            if adaptive is not None:
                search = AdaptiveRequest(
                    adaptive,
                    adaptive_steps,
                    search=adaptive_search,
                    samples=adaptive_samples,
                    earlier=adaptive_from,
                )
            result = evaluate_checkpoint(
                EvaluationRequest(checkpoint, not answers_only, against, search, scales, **shared)
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
    """Raises a UsageError that names an option that is missing or does not fit the others."""
    deployed = given["endpoint"] is not None
    if not deployed and given["checkpoint"] is None:
        raise UsageError("give --checkpoint DIR, or --endpoint URL with --model NAME")
    if deployed and given["model"] is None:
        raise UsageError("--endpoint needs --model NAME, the model's name there")
    if given["baseline_endpoint"] is not None and given["baseline_model"] is None and deployed:
        raise UsageError("--baseline-endpoint needs --baseline-model NAME, the model's name there")
    for name in _IN_MEMORY if deployed else _DEPLOYED:
        if given[name] and (name, given[name]) != ("num_processes", 1):
            where = "with --endpoint" if deployed else "without --endpoint"
            raise UsageError(f"--{name.replace('_', '-')} does not go {where}; leave it out")
    if given["adaptive_from"] is not None and given["adaptive"] is None:
        raise UsageError("--adaptive-from names where a search begins: give --adaptive N too")
