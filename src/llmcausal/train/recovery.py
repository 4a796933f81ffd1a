"""Out of memory during a run: undo the step, switch to a leaner strategy, repeat the step."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from llmcausal.errors import OutOfMemoryError, first_line
from llmcausal.model.tree_attention import end_fixed_order
from llmcausal.train.callback import TrainState
from llmcausal.train.rng import restore_rng, rng_state

T = TypeVar("T")
Place = Literal["training", "validation"]
ADVICE = "Lower data.max_length, then train.batch_size, then lora.rank."
_REASONS = (
    "out of memory",  # CUDA's own, outside torch's allocator (pinned or paged host memory)
    "not enough memory: you tried to allocate",  # torch's allocator on the CPU
    "can't allocate memory",
    "ALLOC_FAILED",  # cuBLAS, cuDNN, cuSOLVER
    "CUBLAS_STATUS_NOT_INITIALIZED",  # its handle found no room
)


@dataclass(frozen=True)
class Fallback:
    """A leaner strategy for a loaded model; results change by rounding alone."""

    name: str  # in metrics, notes and checkpoints
    apply: Callable[[], None]  # switches to it in place


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(each in str(error) for each in _REASONS)


class Rewind:
    """Restores everything that an uncounted step or validation changes.

    That includes modules' buffers: a forward pass may change them, such as a queue of negatives.
    """

    def __init__(
        self,
        modules: Sequence[torch.nn.Module],
        parameters: Sequence[torch.nn.Parameter],
        optimizer: Optimizer,
        scaler: torch.amp.GradScaler,
    ) -> None:
        self._buffers = [buffer for module in modules for buffer in module.buffers()]
        self._parameters = parameters
        self._optimizer = optimizer
        self._scaler = scaler
        self._marked: tuple[list[Tensor], dict[str, Any], dict[str, Any]] | None = None
        self._weights: list[Tensor] | None = None
        self._states: dict[Any, dict[str, Any]] = {}

    def mark(self) -> None:
        """Makes the present the point to return to, unless there is one already."""
        # A retry keeps the first point: the leaner strategy must not move it.
        if self._marked is None:
            buffers = [_copy(buffer) for buffer in self._buffers]
            self._marked = (buffers, self._scaler.state_dict(), rng_state())

    def mark_weights(self) -> None:
        """Copies weights and optimizer states to the host, just before the update.

        An optimizer updates one tensor after the other: if memory runs out in between, half of
        them are updated. No activation is alive while the copies exist.
        """
        weights = [_copy(parameter) for parameter in self._parameters]
        self._states = {
            parameter: {name: _copy(value) for name, value in state.items()}
            for parameter, state in self._optimizer.state.items()
        }
        self._weights = weights  # last: if a copy fails, there is nothing to restore

    @property
    def devices(self) -> set[torch.device]:
        return {parameter.device for parameter in self._parameters}

    def forget(self) -> None:
        """Drops the point: all changes since then count."""
        self._marked = self._weights = None
        self._states = {}

    def rewind(self) -> None:
        """Returns to the point, which stays marked, and drops gradients."""
        for parameter in self._parameters:
            parameter.grad = None
        if self._marked is None:
            return
        if self._weights is not None:
            with torch.no_grad():
                for parameter, weight in zip(self._parameters, self._weights, strict=True):
                    parameter.copy_(weight)
            self._restore_states()
            self._weights, self._states = None, {}
        buffers, scaler, rng = self._marked
        with torch.no_grad():
            for buffer, value in zip(self._buffers, buffers, strict=True):
                buffer.copy_(value)
        if scaler:
            self._scaler.load_state_dict(scaler)
            # `update` clears the record of unscaled gradients, without which the repeated step
            # could not unscale again. It needs the scaler's tensors, which `scale` creates.
            self._scaler.scale(self._parameters[0].new_zeros(()))
            self._scaler.update(scaler["scale"])
        restore_rng(rng)

    def _restore_states(self) -> None:
        live = self._optimizer.state
        for parameter in list(live):
            if parameter not in self._states:  # the undone step created it
                del live[parameter]
                continue
            for name, value in self._states[parameter].items():
                if isinstance(value, Tensor):  # in place: paged states must stay in paged memory
                    live[parameter][name].copy_(value)
                else:
                    live[parameter][name] = value


class Recovery:
    """Repeats work with leaner strategies when memory runs out.

    Args:
        fallbacks: By place, fastest first; each adds to the ones before it. The validation tries
            its own fallbacks, then those of `training`.
        state: Lists the fallbacks taken; a resumed run applies them again.
        notes: Gets a note for each fallback taken.
    """

    def __init__(
        self,
        fallbacks: Mapping[Place, Sequence[Fallback]],
        rewind: Rewind,
        state: TrainState,
        notes: list[str],
    ) -> None:
        self.rewind = rewind
        self._fallbacks = fallbacks
        self._state = state
        self._notes = notes
        for fallback in (*fallbacks.get("training", ()), *fallbacks.get("validation", ())):
            if fallback.name in state.fallbacks:
                fallback.apply()

    def attempt(self, place: Place, moment: str, work: Callable[[], T]) -> T:
        """Does the work; after each fallback, repeats it from its start.

        Args:
            moment: For the user, such as `at step 3`.
            work: If it runs out of memory, its changes are undone.

        Raises:
            OutOfMemoryError: If memory runs out with no fallback left; nothing has changed.
        """
        fallback: Fallback | None = None
        while True:
            try:
                if fallback is not None:
                    fallback.apply()
                self.rewind.mark()
                result = work()
                self.rewind.forget()
                return result
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = first_line(error)
            # Not inside the handler: the exception's frames keep the failed attempt's tensors
            # alive until the handler ends.
            self.rewind.rewind()
            release(self.rewind.devices)
            self._state.out_of_memory_count += 1
            own = self._fallbacks.get("validation", ()) if place == "validation" else ()
            known = (*own, *self._fallbacks.get("training", ()))
            left = (each for each in known if each.name not in self._state.fallbacks)
            fallback = next(left, None)
            if fallback is None:
                self.rewind.forget()
                raise OutOfMemoryError(
                    f"Out of memory {moment}: {reason}\nNo leaner strategy is left to try."
                )
            self._state.fallbacks.append(fallback.name)
            self._notes.append(
                f"out of memory {moment} ({reason}); the step is retried, and the run continues, "
                f"with: {fallback.name}"
            )

    def figures(self) -> dict[str, Any]:
        """Returns a record's figures of fallbacks; none if memory never ran out."""
        count = self._state.out_of_memory_count
        if not count:
            return {}
        return {"strategy": ", ".join(self._state.fallbacks), "out_of_memory_count": count}


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    return deepcopy(value)


def release(devices: Iterable[torch.device]) -> None:
    """Frees the memory that earlier work holds on the CPU and on these devices.

    After a failed backward pass, each device's autograd queue keeps its pending nodes, with their
    graph and saved tensors, until another pass starts. An empty pass on each device drops them.
    """
    end_fixed_order()
    for device in {torch.device("cpu"), *devices}:
        nothing = torch.empty(0, device=device, requires_grad=True)
        nothing.backward(torch.empty_like(nothing))
    gc.collect()  # graphs and exceptions may form reference cycles
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    # glibc keeps freed memory in pieces, which work with other shapes cannot use.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
