from __future__ import annotations

from typing import Annotated

import typer

from llmcausal.cli import options
from llmcausal.cli.options import option

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
        option(
            "ADDRESS",
            "Address to listen on. Outside the loopback, LLMCAUSAL_SERVE_TOKEN must hold a token.",
        ),
    ] = "127.0.0.1",
    port: Annotated[int, option("N", "Port; 0 takes a free one.", min=0, max=65535)] = 8000,
    base: Annotated[
        bool, typer.Option("--base", help="Serve the model without its adapter.")
    ] = False,
    name: Annotated[
        str | None, option("NAME", "Model name in requests; by default the run's name.")
    ] = None,
    max_prompt_tokens: Annotated[int, option("N", "Longest prompt, in tokens.", min=1)] = 4096,
    max_tokens: Annotated[int, option("N", "Longest answer, in tokens.", min=1)] = 512,
    max_body: Annotated[int, option("N", "Largest request, in bytes.", min=1)] = 2**20,
    queue: Annotated[int, option("N", "Most waiting requests.", min=1)] = 32,
    client_timeout: Annotated[
        float, option("N", "Longest time to send a request or to read more, in seconds.", min=0.1)
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
