"""The processes of one run: what each of them computes, and what they tell one another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor

from llmcausal.errors import LlmcausalError, LostProcessError
from llmcausal.launched import process_count
from llmcausal.train.recovery import is_out_of_memory

T = TypeVar("T")
BUCKET_BYTES = 32 * 2**20
"""Gradients that are added up in one message."""
PATIENCE = timedelta(hours=6)
"""How long a process waits for the others: the first writes, probes and evaluates meanwhile."""


@dataclass(frozen=True)
class _Failure:
    """What one process tells the others in place of its result."""

    process: int
    error: LlmcausalError | None
    out_of_memory: str = ""

    def raised(self, own: int) -> Exception:
        if self.error is not None:
            self.error.told = own != 0
            return self.error
        return MemoryError(f"process {self.process}: {self.out_of_memory}")


@dataclass(frozen=True)
class Processes:
    """The processes that train one model together, and which this one is.

    Each has a copy of the model or, where they compute together, a share of its frozen layers.

    The first alone writes and shows. The others follow what it decides, so that all of them make
    the same updates; every method must be called by all of them, in the same order.

    Attributes:
        rank: Of this process, from 0.
        world_size: How many there are.
        sharded: Whether each holds but a share of the model, so that a pass through it is always
            one of all processes.
    """

    rank: int = 0
    world_size: int = 1
    sharded: bool = False

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and shows."""
        return self.rank == 0

    def shard(self, items: Sequence[T]) -> list[T]:
        """Returns this process's share of what is to be computed: every `world_size`-th item.

        Where they compute together, those who would have one item less take the last again.
        """
        share = list(items[self.rank :: self.world_size])
        if self.sharded and len(share) * self.world_size < len(items):
            share.append(items[-1])
        return share

    def owns(self, place: int) -> bool:
        """Whether the item at a place counts as this process's, of those that `shard` gave it."""
        return place % self.world_size == self.rank

    def unshard(self, shares: Sequence[Sequence[T]], count: int) -> list[T]:
        """Puts the shares that `shard` made of `count` items, given by process, back in order."""
        longest = max(map(len, shares), default=0)
        found = [share[row] for row in range(longest) for share in shares if row < len(share)]
        return found[:count]

    def all_gather(self, value: T) -> list[T]:
        """Returns every process's value, by process."""
        if self.world_size == 1:
            return [value]
        from accelerate.utils import gather_object

        found: list[T] = gather_object([value])
        return found

    def run_all(self, work: Callable[[], T]) -> list[T]:
        """Does each process's work, and returns what all of them gave.

        Raises:
            LlmcausalError: On all of them, if one raised it.
            MemoryError: On all of them, if one ran out of memory.
        """
        if self.world_size == 1:
            return [work()]
        return _or_raise(self.all_gather(self._attempt(work)), self.rank)

    def forward_all(self, work: Callable[[], T]) -> list[T]:
        """Does each process's work with the model, and returns what all of them gave.

        Raises:
            LlmcausalError: On all of them, if one raised it.
            MemoryError: On all of them, if one ran out of memory.
            LostProcessError: On the one that failed, where they compute together: the others wait
                in the middle of a pass, where they cannot be told.
        """
        if not self.sharded:
            return self.run_all(work)
        try:
            done = work()
        except Exception as error:
            raise LostProcessError(error) from error
        return self.all_gather(done)

    def on_main(self, work: Callable[[], T]) -> T:
        """Does the work on the first process only, and returns what it gave.

        Raises:
            LlmcausalError: On all of them, if the first raised it.
        """
        if self.world_size == 1:
            return work()
        from accelerate.utils import broadcast_object_list

        told = [self._attempt(work) if self.is_main else None]
        broadcast_object_list(told)
        result: list[T] = _or_raise(told, self.rank)
        return result[0]

    def all_reduce(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Adds up the gradients of all processes, in place, once per optimizer step.

        A parameter that has none anywhere keeps none, as the optimizer then leaves it alone.
        """
        if self.world_size == 1:
            return
        present = self.all_gather([parameter.grad is not None for parameter in parameters])
        gradients = []
        anywhere = map(any, zip(*present, strict=True))
        for parameter, needed in zip(parameters, anywhere, strict=True):
            if needed:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            torch.distributed.all_reduce(flat)
            parts = flat.split([gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view_as(gradient))

    def _attempt(self, work: Callable[[], T]) -> T | _Failure:
        try:
            return work()
        except LlmcausalError as error:
            return _Failure(self.rank, error)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return _Failure(self.rank, None, (str(error) or type(error).__name__).splitlines()[0])


SINGLE = Processes()


@contextmanager
def process_group(device: torch.device) -> Iterator[Processes]:
    """Meets the other processes, if this one was started as one of several.

    That is by `--num-processes`, `accelerate launch` or `torchrun`, which set WORLD_SIZE, RANK and
    LOCAL_RANK. They talk over NCCL on CUDA, else over gloo.
    """
    if process_count() == 1:
        yield SINGLE
        return
    from accelerate import PartialState

    state = PartialState(cpu=device.type == "cpu", timeout=PATIENCE)
    yield Processes(state.process_index, state.num_processes)
    state.wait_for_everyone()  # not after a failure: some of them may be gone
    state.destroy_process_group()


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        if bucket and (size + gradient.nbytes > BUCKET_BYTES or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.nbytes
    if bucket:
        yield bucket


def _or_raise(told: Sequence[T | _Failure | None], own: int) -> list[T]:
    for each in told:
        if isinstance(each, _Failure):
            raise each.raised(own)
    return told  # type: ignore[return-value]
