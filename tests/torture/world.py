"""A tiny real run in a folder, and processes that do it: forked, so that each starts at once."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STEPS = 12
NAME = "run"
_SETTINGS = """
[model]
name = "{model}"
device = "cpu"
precision = "{precision}"
[memory]
activations = "keep"
[lora]
rank = 4
dropout = {dropout}
[data]
train = "{data}"
[loss]
projection_dim = 8
projection_hidden_dim = 16
contrast_gradient = "model"
[train]
max_steps = {steps}
epochs = 4
batch_size = 2
accumulation_steps = 1
learning_rate = 1e-3
[validation]
every_steps = 3
batch_size = 2
[checkpoint]
every_steps = 2
keep = 2
[evaluation]
at_end = false
cache = false
"""


@dataclass
class Process:
    """A forked process that trains or resumes; its output is in `log`."""

    pid: int
    log: Path

    def wait(self, limit_seconds: float = 120) -> int:
        """Returns the exit code, negative for a signal; kills what runs longer than the limit."""
        until = time.monotonic() + limit_seconds
        while time.monotonic() < until:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.002)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        return HUNG

    def send(self, number: int) -> None:
        """Sends a signal, if the process still runs."""
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return

    def output(self) -> str:
        """Returns what it printed."""
        return self.log.read_text("utf-8", "replace")


HUNG = 1000
"""Exit code of a process that had to be killed for taking too long."""


class World:
    """Model, data and profile, and an undisturbed run of them to compare with.

    Args:
        folder: Where all of it lies.
        precision: `model.precision`. In bf16 without dropout, so that layers are computed whole;
            in fp32 with it, as peft computes them.

    Attributes:
        seconds: What the undisturbed run took.
        seconds_of_steps: The part of it after the run directory appeared.
        file_events: Operations on files of the run directory in it.
    """

    def __init__(self, folder: Path, precision: str = "fp32") -> None:
        """Makes the files; the undisturbed run is made by `prepare`."""
        self.folder = folder
        self.precision = precision
        self.profile = folder / "profile.toml"
        self.data = folder / "train.jsonl"
        self.seconds = self.seconds_of_steps = 0.0
        self.file_events = 0
        self._number = 0

    @property
    def straight(self) -> Path:
        """Directory of the undisturbed run."""
        return self.folder / "straight" / NAME

    def write_files(self, make_files: Callable[[Path, Path], None]) -> None:
        """Writes model, data and profile.

        Args:
            make_files: Writes a model folder and a data file.
        """
        model = self.folder / "model"
        make_files(model, self.data)
        dropout = 0.0 if self.precision == "bf16" else 0.1
        text = _SETTINGS.format(
            model=model, data=self.data, steps=STEPS, precision=self.precision, dropout=dropout
        )
        self.profile.write_text(text, "utf-8")

    def prepare(self, make_files: Callable[[Path, Path], None]) -> None:
        """Writes the files and does the undisturbed run."""
        self.write_files(make_files)
        started = time.monotonic()
        process = self.train(self.folder / "straight")
        if process.wait():
            raise SystemExit(f"the undisturbed run failed:\n{process.output()}")
        self.seconds = time.monotonic() - started

    def new_place(self) -> Path:
        """Returns the output folder of one more run."""
        self._number += 1
        return self.folder / f"disturbed-{self._number}"

    def train(
        self,
        place: Path,
        before: Callable[[], None] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Process:
        """Starts a fresh run in `place`; `before` runs in the process, ahead of it."""
        changed = {"name": NAME, **(settings or {})}
        given = [part for key, value in changed.items() for part in ("--set", f"{key}={value}")]
        command = ("train", str(self.profile), "--plain", "--output-dir", str(place), *given)
        return self.fork(command, before)

    def resume(self, run_dir: Path, before: Callable[[], None] | None = None) -> Process:
        """Goes on with a run."""
        return self.fork(("resume", str(run_dir), "--plain"), before)

    def fork(self, arguments: Sequence[str], before: Callable[[], None] | None) -> Process:
        """Starts the command line with these arguments."""
        self._number += 1
        log = self.folder / f"log-{self._number}.txt"
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            return Process(pid, log)
        os._exit(_in_child(arguments, before, log))


def _in_child(arguments: Sequence[str], before: Callable[[], None] | None, log: Path) -> int:
    """Runs the command line itself, with its output in a file."""
    from llmcausal.cli.app import main

    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(target, 1)
    os.dup2(target, 2)
    sys.argv = ["llmcausal", *arguments]
    try:
        if before is not None:
            before()
        main()
    except SystemExit as ended:
        sys.stdout.flush()
        return ended.code if isinstance(ended.code, int) else 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
