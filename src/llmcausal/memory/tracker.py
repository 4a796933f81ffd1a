"""Logs every storage that a step makes and lets go, with what it is for."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from llmcausal.memory.budget import GpuTraits
from llmcausal.memory.trace import Allocation, Trace
from llmcausal.memory.workspaces import hidden_temporaries

_COMPONENTS = {"weights": "misc", "loss": "logits", "optimizer": "misc"}


class AllocationTracker(TorchDispatchMode):
    """Writes a trace of what happens on a device and on the host beside it.

    Args:
        device: Type of the device that computes; `cpu` has no host beside it.
        gpu: The GPU that the device stands for; None for a CPU.

    Attributes:
        trace: What happened.
        phase: What is being done: `weights`, `forward`, `loss`, `backward` or `optimizer`.
    """

    def __init__(self, device: str, gpu: GpuTraits | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self.gpu = gpu
        self.trace = Trace()
        self.phase = "weights"
        self._known: dict[int, int] = {}
        self._watched: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs an operation and notes the storages that are new in what it returns."""
        temporaries = hidden_temporaries(func, args, self.gpu)
        ids = [
            self.trace.allocate(Allocation(size, component, f"inside {func}", self.phase))
            for component, size in temporaries
        ]
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf, func)
        for each in reversed(ids):
            self.trace.free(each)
        return result

    def register(self, tensor: Tensor, component: str, what: str) -> None:
        """Says what a tensor is for; notes it if it is new."""
        self._note(tensor, None)
        known = self._known.get(id(tensor.untyped_storage()))
        if known is not None:
            allocation = self.trace.allocations[known]
            allocation.component, allocation.what = component, what

    def resize(self, tensor: Tensor, size: int) -> None:
        """Says that of a known tensor only so many bytes are held."""
        self.trace.allocations[self._known[id(tensor.untyped_storage())]].size = size

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Sets the phase for a while."""
        before, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.phase = before

    def _note(self, tensor: Tensor, func: Any) -> None:
        kind = tensor.device.type
        if kind not in (self.device, "cpu"):
            return
        storage = tensor.untyped_storage()
        key = id(storage)
        size = storage.nbytes()
        if key in self._known or not size:
            return
        name = "" if func is None else func.name().partition("::")[2]
        what = f"{name} {list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
        component = _COMPONENTS.get(self.phase, "activations")
        if "dequantize" in name:
            component = "dequantization"
        host = kind != self.device
        made = Allocation(size, component, what, self.phase, host=host, pinned=host)
        number = self._known[key] = self.trace.allocate(made)
        # Not the tensor: views share the storage, and outlive it.
        self._watched[key] = weakref.ref(storage, lambda _: self._forget(key, number))

    def _forget(self, key: int, number: int) -> None:
        del self._known[key], self._watched[key]
        self.trace.free(number)
