"""`llmcausal try`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated, BinaryIO

from llmcausal.cli import options
from llmcausal.cli.options import option
from llmcausal.errors import UsageError
from llmcausal.storage import read_at_most

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
    system: Annotated[str | None, option("TEXT", "The task; with --text, answer once.")] = None,
    text: Annotated[
        Path | None, option("FILE", "The text that the task is about; - reads stdin.")
    ] = None,
    attacks: Annotated[int, option("N", "Attacks on the text.", min=1, max=60)] = 6,
    goal: Annotated[str | None, option("TEXT", "The attacker's instruction.")] = None,
    witness: Annotated[
        str | None, option("TEXT", "Text in an answer that shows obedience to --goal.")
    ] = None,
    max_tokens: Annotated[int | None, option("N", "Longest answer, in tokens.", min=1)] = None,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.AsJson = False,
) -> None:
    """Show how the untouched model and a checkpoint answer your own task and text.

    Without --system and --text it asks for them. Attacks use phrasings that training never sees.
    """
    from llmcausal.assembly.trying import Trials, TryRequest
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
        with options.reserved_stdout(), status("Answering"):
            found = trials.attacked(system, document)
    if as_json:
        options.print_json(found)
        return
    detector = render_detector(found["detector"]["text"])
    console().print(render_answers(found["answers"]), detector, render_attacks(found))


def _read(path: Path) -> str:
    try:
        piped = str(path) == "-" and sys.stdin is not None
        source: Path | BinaryIO = sys.stdin.buffer if piped else path.expanduser()
        document = read_at_most(source, _MAX_TEXT_BYTES).decode("utf-8").strip()
    except (OSError, ValueError) as error:
        raise UsageError(f"--text {path}: cannot be read: {error}") from error
    if not document:
        raise UsageError(f"--text {path}: holds no text")
    return document
