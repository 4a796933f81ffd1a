"""A run's processes: what each computes, and what they exchange."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor

from llmcausal.errors import LlmcausalError, LostProcessError, first_line
from llmcausal.launched import process_count
from llmcausal.train.recovery import is_out_of_memory

T = TypeVar("T")
BUCKET_BYTES = 32 * 2**20
"""Gradients in one message."""
PATIENCE = timedelta(hours=6)
"""How long a process waits for the others, while rank 0 writes, probes or evaluates."""


@dataclass(frozen=True)
class _Failure:
    """What a failed process sends the others instead of its result."""

    rank: int
    error: LlmcausalError | None
    out_of_memory: str = ""


@dataclass(frozen=True)
class Processes:
    """The processes that train one model together, and this process's rank.

    Only rank 0 writes and shows. The other ranks follow its decisions, so all make the same
    updates. All ranks must call every method, in the same order.
    """

    rank: int = 0
    world_size: int = 1
    # Whether each process holds only a share of the frozen layers. Every pass then needs all
    # processes.
    sharded: bool = False

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def shard(self, items: Sequence[T]) -> list[T]:
        """Returns this rank's share of the items: every `world_size`-th.

        With sharded layers all ranks must make the same number of passes: ranks with one item less
        repeat the last item.
        """
        share = list(items[self.rank :: self.world_size])
        if self.sharded and len(share) * self.world_size < len(items):
            share.append(items[-1])
        return share

    def owns(self, place: int) -> bool:
        """Whether an item that `shard` returned counts as this rank's."""
        return place % self.world_size == self.rank

    def unshard(self, shares: Sequence[Sequence[T]], count: int) -> list[T]:
        """Returns `count` items in order, given all ranks' shares by `shard`."""
        longest = max(map(len, shares), default=0)
        found = [share[row] for row in range(longest) for share in shares if row < len(share)]
        return found[:count]

    def all_gather(self, value: T) -> list[T]:
        if self.world_size == 1:
            return [value]
        from accelerate.utils import gather_object

        found: list[T] = gather_object([value])
        return found

    def run_all(self, work: Callable[[], T]) -> list[T]:
        """Does the work on each rank, and returns all ranks' results.

        Raises:
            LlmcausalError: On all ranks, if one raised it.
            MemoryError: On all ranks, if one ran out of memory.
        """
        if self.world_size == 1:
            return [work()]
        return self._results(self.all_gather(self._attempt(work)))

    def forward_all(self, work: Callable[[], T]) -> list[T]:
        """Runs the model on each rank, and returns all ranks' results.

        Raises:
            LostProcessError: On a failed rank with sharded layers: the others wait in the middle
                of a pass, where no message reaches them. Otherwise as `run_all`.
        """
        if not self.sharded:
            return self.run_all(work)
        try:
            done = work()
        except Exception as error:
            raise LostProcessError(error) from error
        return self.all_gather(done)

    def on_main(self, work: Callable[[], T]) -> T:
        """Does the work on rank 0 only; all ranks return its result or raise its error."""
        if self.world_size == 1:
            return work()
        from accelerate.utils import broadcast_object_list

        result = [self._attempt(work) if self.is_main else None]
        broadcast_object_list(result)
        return self._results(result)[0]

    def all_reduce(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Adds up all ranks' gradients, in place.

        If no rank has a gradient for a parameter, it keeps none, and the optimizer skips it.
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
            return _Failure(self.rank, None, first_line(error))

    def _results(self, found: Sequence[T | _Failure | None]) -> list[T]:
        for each in found:
            if not isinstance(each, _Failure):
                continue
            if each.error is None:
                raise MemoryError(f"process {each.rank}: {each.out_of_memory}")
            each.error.told = not self.is_main
            raise each.error
        return found  # type: ignore[return-value]


SINGLE = Processes()


@contextmanager
def process_group(device: torch.device) -> Iterator[Processes]:
    """Joins the process group, if this process is one of several.

    `--num-processes`, `accelerate launch` and `torchrun` set WORLD_SIZE, RANK and LOCAL_RANK. The
    backend is NCCL on CUDA, else gloo.
    """
    if process_count() == 1:
        yield SINGLE
        return
    from accelerate import PartialState

    state = PartialState(cpu=device.type == "cpu", timeout=PATIENCE)
    yield Processes(state.process_index, state.num_processes)
    state.wait_for_everyone()  # not after a failure: other processes may have ended
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
