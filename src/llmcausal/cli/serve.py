"""`llmcausal serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from llmcausal.cli import options

app = options.subcommand()


@app.command(
    epilog=options.examples(
        "llmcausal serve --checkpoint runs/demo-cpu/best",
        "llmcausal serve --checkpoint runs/demo-cpu/best --base --port 8001",
    )
)
def serve(
    checkpoint: options.Checkpoint,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Address to listen on. Outside the loopback, LLMCAUSAL_SERVE_TOKEN must hold a "
            "token.",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="Port; 0 takes a free one.")
    ] = 8000,
    base: Annotated[
        bool, typer.Option("--base", help="Serve the model without its adapter.")
    ] = False,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Model name in requests; by default the run's name."),
    ] = None,
    max_prompt_tokens: Annotated[
        int, typer.Option(metavar="N", min=1, help="Longest prompt, in tokens.")
    ] = 4096,
    max_tokens: Annotated[
        int, typer.Option(metavar="N", min=1, help="Longest answer, in tokens.")
    ] = 512,
    max_body: Annotated[
        int, typer.Option(metavar="N", min=1, help="Largest request, in bytes.")
    ] = 2**20,
    queue: Annotated[int, typer.Option(metavar="N", min=1, help="Most waiting requests.")] = 32,
    client_timeout: Annotated[
        float,
        typer.Option(
            metavar="N",
            min=0.1,
            help="Longest time to send a request or to read more, in seconds.",
        ),
    ] = 30.0,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Serve a checkpoint over OpenAI's API, to try and test it.

    It answers one request at a time and is not for production.
    """
    from llmcausal.assembly import serving
    from llmcausal.server.engine import Limits
    from llmcausal.ui.console import err_console

    def started(url: str, model: str) -> None:
        text = f"{model} is served at {url}/v1; Ctrl-C ends it"
        err_console().print(text, soft_wrap=True)

    request = serving.ServeRequest(
        checkpoint,
        host=host,
        port=port,
        base=base,
        name=name,
        trust_remote_code=trust_remote_code,
        limits=Limits(max_body, max_prompt_tokens, max_tokens, queue, client_timeout),
        started=started,
    )
    with options.reserved_stdout():
        serving.serve(request)
