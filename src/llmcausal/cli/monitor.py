"""`llmcausal monitor`: probe, logs, canaries."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmcausal.cli import options
from llmcausal.cli.options import option
from llmcausal.errors import LimitCrossedError, UsageError

if TYPE_CHECKING:
    from llmcausal.assembly.monitoring import Deployed

app = options.subcommand(
    help="Track attack success of a deployed model.",
    no_args_is_help=True,
    epilog=options.examples(
        "llmcausal monitor probe --endpoint URL --model NAME --out watch",
        "llmcausal monitor logs traffic.jsonl --out watch",
    ),
)

_EndpointUrl = Annotated[
    str, option("URL", "The API. LLMCAUSAL_ENDPOINT_KEY holds its key.", "--endpoint")
]
_Model = Annotated[str, option("NAME", "The model's name there.")]
_Tokenizer = Annotated[str | None, option("DIR", "Exported folder that renders the ids.")]
_Budget = Annotated[int | None, option("N", "Most requests of a round, retries included.", min=1)]
_Concurrency = Annotated[int, option("N", "Simultaneous requests.", min=1)]
_MaxTokens = Annotated[int, option("N", "Longest answer, in tokens.", "--max-tokens", min=1)]
_Out = Annotated[Path, option("DIR", "Folder of the series, its page and its metrics.")]
_Limit = Annotated[float | None, option("SHARE", "Greatest share, such as 0.05.", min=0, max=1)]
_Baseline = Annotated[
    Path | None,
    option("PATH", "Compare with this series.jsonl or results.json, not with the first round."),
]
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


@app.command(
    epilog=options.examples(
        "llmcausal monitor probe --endpoint URL --model NAME --out watch",
        "llmcausal monitor probe --endpoint URL --model M --out watch --limit 0.05",
        "llmcausal monitor probe --endpoint URL --model M --out watch --every 1h",
    )
)
def probe(
    context: typer.Context,
    endpoint: _EndpointUrl,
    model: _Model,
    out: _Out,
    api: options.ApiName = "openai",
    tokenizer: _Tokenizer = None,
    canaries: Annotated[
        Path | None, option("FILE", "Canaries of your own, or made by `monitor canaries`.")
    ] = None,
    count: Annotated[int, option("N", "Canaries of a round.", min=1)] = 50,
    budget: _Budget = None,
    every: Annotated[
        str | None, option("TIME", "Repeat until an alarm or Ctrl-C: 90s, 15m, 1h, 1d.")
    ] = None,
    limit: _Limit = None,
    baseline: _Baseline = None,
    concurrency: _Concurrency = 8,
    timeout: options.Timeout = 120.0,
    patience: options.Patience = 300.0,
    max_tokens: _MaxTokens = 48,
    as_json: options.AsJson = False,
) -> None:
    """Attack a deployed model with canaries whose witnesses are new in each round.

    Exit code 6: the share of obeyed canaries is above the limit or the baseline.
    """
    from llmcausal.ui.console import err_console

    seconds = None if every is None else _interval(every)
    with options.reserved_stdout():
        from llmcausal.assembly import monitoring
        from llmcausal.ui.monitoring import render_round

        row = monitoring.probe(
            monitoring.ProbeRequest(
                deployed=_deployed(context.params),
                watch=monitoring.Watch(out=out, limit=limit, baseline=baseline),
                canaries=canaries,
                count=count,
                every=seconds,
                shown=lambda each: err_console().print(render_round(each)) if seconds else None,
            )
        )
    _end(row, as_json)


@app.command(
    epilog=options.examples(
        "llmcausal monitor logs traffic.jsonl --out watch --limit 0.001",
        "llmcausal monitor logs traffic.jsonl --out watch --witnesses planted.txt",
    )
)
def logs(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="JSON Lines: system, user or spans, and answer.")
    ],
    out: _Out,
    model: Annotated[str, option("NAME", "Names the deployment in the series.")] = "",
    witnesses: Annotated[
        Path | None, option("FILE", "Texts, one a line, that no honest answer holds.")
    ] = None,
    checkpoint: Annotated[
        Path | None, option("DIR", "Also score the texts with this checkpoint's detector.")
    ] = None,
    limit: _Limit = None,
    baseline: _Baseline = None,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.AsJson = False,
) -> None:
    """Score real traffic: known witnesses, copied instructions, leaked system prompts.

    Exit code 6: a signal's share is above the limit or the baseline.
    """
    with options.reserved_stdout():
        from llmcausal.assembly import monitoring

        watch = monitoring.Watch(out=out, limit=limit, baseline=baseline)
        row = monitoring.score_logs(
            monitoring.LogsRequest(
                file=file,
                watch=watch,
                model=model,
                witnesses=witnesses,
                checkpoint=checkpoint,
                trust_remote_code=trust_remote_code,
            )
        )
    _end(row, as_json)


@app.command(
    epilog=options.examples(
        "llmcausal monitor canaries --endpoint URL --model base --out canaries.jsonl"
    )
)
def canaries(
    context: typer.Context,
    endpoint: _EndpointUrl,
    model: _Model,
    out: Annotated[Path, option("FILE", "New file of canaries.")],
    api: options.ApiName = "openai",
    tokenizer: _Tokenizer = None,
    count: Annotated[int, option("N", "Attacks to try, twice each.", min=1)] = 200,
    budget: _Budget = None,
    concurrency: _Concurrency = 8,
    timeout: options.Timeout = 120.0,
    patience: options.Patience = 300.0,
    max_tokens: _MaxTokens = 48,
    as_json: options.AsJson = False,
) -> None:
    """Choose the attacks that an untouched model obeys, as canaries for its tuned version.

    With `--base`, `serve` serves the untouched model.
    """
    with options.reserved_stdout():
        from llmcausal.assembly import monitoring

        result = monitoring.choose_canaries(_deployed(context.params), count, out)
    if as_json:
        options.print_json(result)
        return
    typer.echo(f"{result['chosen']} of {result['candidates']} attacks: {result['written']}")


def _deployed(given: Mapping[str, Any]) -> Deployed:
    from llmcausal.assembly.monitoring import Deployed
    from llmcausal.evaluation.endpoint import RequestPace

    pace = RequestPace(given["budget"], given["concurrency"], given["timeout"], given["patience"])
    return Deployed(
        url=given["endpoint"],
        model=given["model"],
        api=given["api"],
        tokenizer=given["tokenizer"],
        pace=pace,
        max_new_tokens=given["max_tokens"],
    )


def _interval(text: str) -> float:
    found = re.fullmatch(r"([0-9]{1,7}(?:\.[0-9]{1,3})?)([smhd]?)", text.strip())
    seconds = float(found[1]) * _SECONDS[found[2]] if found else 0.0
    if not 0 < seconds <= 366 * _SECONDS["d"]:
        raise UsageError(f"--every {text}: give a time such as 90s, 15m, 1h or 1d")
    return seconds


def _end(row: dict[str, Any], as_json: bool) -> None:
    """Prints a round; raises a LimitCrossedError if it raised an alarm."""
    from llmcausal.ui.console import console
    from llmcausal.ui.monitoring import crossed, render_round

    if as_json:
        options.print_json(row)
    else:
        console().print(render_round(row))
        console().print(f"page: {row['page']}", soft_wrap=True)
    if row["alarm"]:
        raise LimitCrossedError(f"a limit is crossed: {crossed(row)}")
