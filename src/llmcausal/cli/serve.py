"""`llmcausal serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from llmcausal.cli.options import Checkpoint, TrustRemoteCode, examples, reserved_stdout, subcommand

app = subcommand()

Host = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS",
        help="Address to listen on. Outside the loopback, LLMCAUSAL_SERVE_TOKEN must hold a token.",
    ),
]
Port = Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="Port; 0 takes a free one.")]
Base = Annotated[bool, typer.Option("--base", help="Serve the model without its adapter.")]
Name = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Model name in requests; by default the run's name."),
]
PromptTokens = Annotated[
    int, typer.Option("--max-prompt-tokens", metavar="N", min=1, help="Longest prompt, in tokens.")
]
NewTokens = Annotated[
    int, typer.Option("--max-tokens", metavar="N", min=1, help="Longest answer, in tokens.")
]
BodyBytes = Annotated[
    int, typer.Option("--max-body", metavar="N", min=1, help="Largest request, in bytes.")
]
Queue = Annotated[int, typer.Option("--queue", metavar="N", min=1, help="Most waiting requests.")]
ClientSeconds = Annotated[
    float,
    typer.Option(
        "--client-timeout",
        metavar="N",
        min=0.1,
        help="Longest time to send a request or to read more, in seconds.",
    ),
]


@app.command(
    epilog=examples(
        "llmcausal serve --checkpoint runs/demo-cpu/best",
        "llmcausal serve --checkpoint runs/demo-cpu/best --base --port 8001",
    )
)
def serve(
    checkpoint: Checkpoint,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    base: Base = False,
    name: Name = None,
    max_prompt_tokens: PromptTokens = 4096,
    max_tokens: NewTokens = 512,
    max_body: BodyBytes = 2**20,
    queue: Queue = 32,
    client_timeout: ClientSeconds = 30.0,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Serve a checkpoint over OpenAI's API, to try and test it.

    It answers one request at a time and is not for production.
    """
    from llmcausal import assembly
    from llmcausal.server.engine import Limits
    from llmcausal.ui.console import err_console

    def started(url: str, model: str) -> None:
        text = f"{model} is served at {url}/v1; Ctrl-C ends it"
        err_console().print(text, soft_wrap=True)

    with reserved_stdout():
        assembly.serve(
            checkpoint,
            host=host,
            port=port,
            base=base,
            name=name,
            limits=Limits(max_body, max_prompt_tokens, max_tokens, queue, client_timeout),
            trust_remote_code=trust_remote_code,
            started=started,
        )
