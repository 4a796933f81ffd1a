"""`--num-processes`: the same command in several processes on this machine.

`torch.distributed.run` and `accelerate launch` work too, but they kill a run 30 seconds after a
signal, saved or not, and always exit with code 1.
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

GRACE_SECONDS = 60.0
"""How long the other processes may continue after one has failed."""
_POLL_SECONDS = 0.1
_SHOWN_LINES = 15


def launch(count: int) -> None:
    """Runs this command in `count` processes, and exits with the first failure's code.

    Returns only if there is nothing to start: for one process, or in a started process, which
    gets the same command line.
    """
    if count == 1 or process_count() > 1:
        return
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        logs = [Path(folder) / f"{index}.log" for index in range(count)]
        outputs: list[IO[bytes] | None] = [None]
        outputs += [stack.enter_context(log.open("wb")) for log in logs[1:]]
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "llmcausal", *sys.argv[1:]],
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


@contextmanager
def _signals_passed_on(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Passes on SIGTERM. Ctrl-C reaches the processes from the terminal: here it is ignored."""

    def pass_on(number: int, frame: Any) -> None:
        for process in processes:
            process.send_signal(number)

    previous = [
        (signal.SIGINT, signal.signal(signal.SIGINT, signal.SIG_IGN)),
        (signal.SIGTERM, signal.signal(signal.SIGTERM, pass_on)),
    ]
    try:
        yield
    finally:
        for number, handler in previous:
            signal.signal(number, handler)


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """Waits for all, kills the others a while after one failed, and returns the first failure."""
    failed: int | None = None
    until = 0.0
    while True:
        running = [process for process in processes if process.poll() is None]
        if failed is None:
            failed = next((i for i, process in enumerate(processes) if process.returncode), None)
            until = time.monotonic() + GRACE_SECONDS
        elif time.monotonic() > until:
            for process in running:
                process.kill()
        if not running:
            return failed or 0
        time.sleep(_POLL_SECONDS)
