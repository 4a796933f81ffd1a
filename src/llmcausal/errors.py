"""Errors for the user, with the program's exit codes."""

from __future__ import annotations

import copyreg
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, or its type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class LlmcausalError(Exception):
    """A failure whose message says what is wrong, where, and what to do.

    The command line prints the message without a traceback and exits with `exit_code`. If another
    process of the same run prints it, `told` is set.
    """

    exit_code = 2
    told = False

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the error without calling the constructor: subclasses take other arguments."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class UsageError(LlmcausalError):
    """A command's arguments are wrong or contradict each other."""


class ConfigError(LlmcausalError):
    """A profile or an override is wrong."""


class ModelError(LlmcausalError):
    """A model or tokenizer cannot be found, loaded or used."""


class CheckpointError(LlmcausalError):
    """A checkpoint is missing, damaged, or does not fit the run."""


class EndpointError(LlmcausalError):
    """A deployed model does not answer, or its answer is unreadable."""


class StorageError(LlmcausalError):
    """The disk refused an operation; earlier files are intact."""


@contextmanager
def writing(place: object, what: str = "") -> Iterator[None]:
    """Turns an OSError inside into a StorageError that names the place, and what is there."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{place}: {what}cannot be written: {error.strerror}") from error


class DataError(LlmcausalError):
    """Unusable data; `defects` lists every defect as `file:line: field: reason`."""

    def __init__(self, defects: Sequence[str], summary: str = "") -> None:
        self.defects = list(defects)
        count = len(self.defects)
        plural = "" if count == 1 else "s"
        heading = summary or f"{count} defect{plural} in the data; nothing was started"
        super().__init__("\n".join([heading, *self.defects]))


class DoesNotFitError(LlmcausalError):
    """The prediction says that the run does not fit in memory."""

    exit_code = 3


class OutOfMemoryError(LlmcausalError):
    """Memory ran out during the run."""

    exit_code = 4


class NonFiniteLossError(LlmcausalError):
    """The loss or a gradient became NaN or infinite."""

    exit_code = 5


class LimitCrossedError(LlmcausalError):
    """A monitored share is above its limit or its baseline."""

    exit_code = 6


class LostProcessError(LlmcausalError):
    """A process that shares its layers with others failed in the middle of a pass.

    The exit code is the failure's, or 4 if memory ran out.
    """

    def __init__(self, error: Exception) -> None:
        reason = first_line(error)
        out_of_memory = isinstance(error, MemoryError) or "out of memory" in reason
        advice = "; lower data.max_length, or raise memory.shards and --num-processes"
        super().__init__(
            f"{reason}\nThe other processes wait for this one's part of the layers, so the run "
            f"ends; its last checkpoint is intact{advice if out_of_memory else ''}."
        )
        plain = 4 if out_of_memory else 1
        self.exit_code = error.exit_code if isinstance(error, LlmcausalError) else plain


class Interrupted(LlmcausalError):
    """A signal ended the program; exit code 130 for SIGINT, 143 for SIGTERM."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
