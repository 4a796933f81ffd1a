"""`--num-processes`: the same command in several processes on this machine.

`torch.distributed.run` and `accelerate launch` work too, but end a run 30 seconds after a signal,
saved or not, and always with exit code 1.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import typer

from llmcausal.launched import process_count

OPTION = "--num-processes"
GRACE_SECONDS = 60.0
"""How long the others may continue after one has failed."""
_POLL_SECONDS = 0.1
_SHOWN_LINES = 15


def launch(count: int) -> None:
    """Runs this command in `count` processes, and exits with the code of the first failure.

    Returns only if there is nothing to start: for one process, or in a started one.
    """
    if count == 1 or process_count() > 1:
        return
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        logs = [Path(folder) / f"{index}.log" for index in range(count)]
        outputs: list[IO[bytes] | None] = [None]
        outputs += [stack.enter_context(log.open("wb")) for log in logs[1:]]
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "llmcausal", *_without_option(sys.argv[1:])],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output and subprocess.STDOUT,
            )
            for environment, output in zip(_environments(count), outputs, strict=True)
        ]
        with _signals_passed_on(processes):
            first = _wait(processes)
        code = processes[first].returncode
        if first and code != processes[0].returncode:
            lines = logs[first].read_text("utf-8", errors="replace").splitlines()[-_SHOWN_LINES:]
            typer.echo("\n".join([f"process {first} failed:", *lines]), err=True)
    raise typer.Exit(128 - code if code < 0 else code)


def _environments(count: int) -> Iterator[dict[str, str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    if "OMP_NUM_THREADS" not in os.environ:
        shared["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // count))
    for index in range(count):
        yield {**os.environ, **shared, "RANK": str(index), "LOCAL_RANK": str(index)}


def _without_option(arguments: Sequence[str]) -> list[str]:
    """Leaves out `OPTION`, in both its spellings."""
    kept = []
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == OPTION:
            skip = True
        elif not argument.startswith(f"{OPTION}="):
            kept.append(argument)
    return kept


@contextmanager
def _signals_passed_on(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Passes on SIGTERM; the terminal itself sends Ctrl-C to the processes."""

    def pass_on(number: int, frame: Any) -> None:
        for process in processes:
            process.send_signal(number)

    def wait(number: int, frame: Any) -> None:
        """They stop when their step is done."""

    previous = [
        (signal.SIGINT, signal.signal(signal.SIGINT, wait)),
        (signal.SIGTERM, signal.signal(signal.SIGTERM, pass_on)),
    ]
    try:
        yield
    finally:
        for number, handler in previous:
            signal.signal(number, handler)


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """Waits for all, and ends the others a while after one failed; returns the first failure."""
    failed: int | None = None
    until = float("inf")
    while any(process.poll() is None for process in processes):
        if failed is None:
            failed = next((i for i, process in enumerate(processes) if process.returncode), None)
            until = float("inf") if failed is None else time.monotonic() + GRACE_SECONDS
        elif time.monotonic() > until:
            for process in processes:
                process.kill()
        time.sleep(_POLL_SECONDS)
    if failed is None:
        failed = next((i for i, process in enumerate(processes) if process.returncode), 0)
    return failed
