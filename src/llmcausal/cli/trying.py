"""`llmcausal try`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from llmcausal.cli import options

app = options.subcommand()
_MAX_TEXT_BYTES = 2**20


@app.command(
    epilog=options.examples(
        "llmcausal try --checkpoint runs/demo-cpu/best",
        'llmcausal try --checkpoint runs/x/best --system "Summarize." --text mail.txt',
    )
)
def try_(
    checkpoint: options.Checkpoint,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The task; with --text, answer once.")
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The text that the task is about; - reads stdin."),
    ] = None,
    attacks: Annotated[
        int, typer.Option(metavar="N", min=1, max=60, help="Attacks on the text.")
    ] = 6,
    goal: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The attacker's instruction.")
    ] = None,
    witness: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Text in an answer that shows obedience to --goal."),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", metavar="N", min=1, help="Longest answer, in tokens."),
    ] = None,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.AsJson = False,
) -> None:
    """Show how the untouched model and a checkpoint answer your own task and text.

    Without --system and --text it asks for them. Attacks use phrasings that training never sees.
    """
    from llmcausal.assembly.trying import Trials, TryRequest
    from llmcausal.errors import UsageError
    from llmcausal.train.interrupt import stopping_explained
    from llmcausal.ui.console import console, status
    from llmcausal.ui.trying import ask_and_show, render_answers, render_attacks, render_detector

    if (system is None) != (text is None):
        raise UsageError("--system and --text belong together; without both, `try` asks for them")
    if system is None and (as_json or sys.stdin is None or not sys.stdin.isatty()):
        raise UsageError("without a terminal, give the task with --system and the text with --text")
    document = "" if text is None else _read(text)
    request = TryRequest(checkpoint, attacks, goal, witness, max_tokens, trust_remote_code)
    with stopping_explained("Nothing was written."):
        with options.reserved_stdout():
            trials = Trials(request)
        if system is None:
            with contextlib.suppress(ImportError):  # without it, a terminal cuts long lines
                import readline  # noqa: F401
            ask_and_show(trials, input)
            return
        trials.goal(system, document)  # refuses a witness of no use before the model answers
        with options.reserved_stdout(), status("Answering"):
            answers = trials.answers(system, [document])
            detector = trials.detected(system, [document])
        with options.reserved_stdout(), status("Attacking"):
            found = trials.attacked(system, document)
    if as_json:
        clean = {side: answer for side, (answer,) in answers.items()}
        attacks = {**found, "detector": {"text": detector, "attacks": found["detector"]}}
        options.print_json({"answers": clean, **attacks})
        return
    console().print(render_answers(answers), render_detector(detector), render_attacks(found))


def _read(path: Path) -> str:
    from llmcausal.errors import UsageError
    from llmcausal.storage import read_at_most

    try:
        if str(path) == "-" and sys.stdin is not None:
            content = sys.stdin.buffer.read(_MAX_TEXT_BYTES + 1)
            if len(content) > _MAX_TEXT_BYTES:
                raise ValueError(f"longer than {_MAX_TEXT_BYTES} bytes")
        else:
            content = read_at_most(path.expanduser(), _MAX_TEXT_BYTES)
        document = content.decode("utf-8").strip()
    except (OSError, ValueError) as error:
        raise UsageError(f"--text {path}: cannot be read: {error}") from error
    if not document:
        raise UsageError(f"--text {path}: holds no text")
    return document
