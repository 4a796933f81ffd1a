"""`serve`: a checkpoint behind OpenAI's API, to try and test it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from llmcausal.assembly.evaluating import load_parts, read_checkpoint
from llmcausal.errors import UsageError
from llmcausal.evaluation.detection import Detector, detector_of
from llmcausal.model.device import out_of_memory_explained
from llmcausal.server.engine import Engine, Limits
from llmcausal.train.interrupt import stopping_explained
from llmcausal.train.trackers.tracker import missing_package
from llmcausal.ui.console import show_notes

TOKEN_VARIABLE = "LLMCAUSAL_SERVE_TOKEN"
"""Environment variable that holds the bearer token of requests."""
_HERE = ("localhost", "127.0.0.1", "::1", "[::1]")


@dataclass(frozen=True)
class ServeRequest:
    """The options of `serve`.

    `started` is called with the server's URL and the model's name once clients can connect.
    """

    checkpoint: Path
    host: str = "127.0.0.1"
    port: int = 8000
    base: bool = False  # answer without the adapter
    name: str | None = None
    trust_remote_code: bool = False
    limits: Limits = field(default_factory=Limits)
    started: Callable[[str, str], None] = lambda url, name: None


@out_of_memory_explained("in the server")
def serve(request: ServeRequest) -> None:
    """Serves a verified checkpoint until it is interrupted.

    Raises:
        UsageError: If a package is missing, the address is not available, or other machines can
            reach it and there is no token.
        CheckpointError: If the checkpoint is damaged, or its template differs from this machine's.
        Interrupted: On Ctrl-C or SIGTERM.
    """
    if missing := missing_package("starlette", "uvicorn", extra="serve"):
        raise UsageError(missing)
    from llmcausal.server.app import Served, address, bind, build_app, is_loopback, make_server

    token = os.environ.get(TOKEN_VARIABLE) or None
    alone = is_loopback(request.host)
    if token is None and not alone:
        raise UsageError(
            f"--host {request.host}: other machines can reach it; set {TOKEN_VARIABLE} to a token "
            "that requests must have, or listen on 127.0.0.1"
        )
    config, manifest = read_checkpoint(request.checkpoint, request.trust_remote_code)
    with (
        stopping_explained("The server has stopped."),
        closing(bind(request.host, request.port)) as taken,
    ):
        parts = load_parts(config, manifest, request.checkpoint)
        detector: Detector | str = "it was trained on the states of the tuned model"
        if not request.base:
            detector = detector_of(request.checkpoint, parts.step, parts.template, config)
        off = isinstance(detector, str)
        show_notes(
            [f"detector off: {detector}" if off else "detector on: answers have `injection`"]
        )
        engine = Engine(
            parts.model,
            parts.template,
            request.limits,
            adapter=not request.base,
            detector=None if isinstance(detector, str) else detector,
        )
        engine.start()
        served = Served(
            engine,
            request.name or config.name,
            token,
            _HERE if alone else ("*",),
            spans=manifest.get("spans") is True,
        )
        try:
            make_server(
                build_app(served),
                request.limits.client_seconds,
                lambda: request.started(address(taken), served.name),
            ).run([taken])
        finally:
            engine.close()
