"""Notes every allocation of a fake step, also what kernels take for a moment.

Memory that an operation takes while it runs and that no tensor outside it ever shows.

Read in the source of bitsandbytes 0.50 (`backends/*/ops.py`: `_dequant_linear_fallback`,
`_gemm_4bit_default_impl`) and of torch 2.13 (`ReduceOps.cpp`: `logsumexp_out_impl`;
`flash_attn/flash_api.cpp`, `mem_eff_attention/kernel_backward.h`: the query's gradient in fp32;
`mha_bwd` in the first: `dk_expanded`, `dv_expanded`, `dq_accum` by `nsplits`;
`FlashAttentionKernel.cpp`: scores of one tile for each thread).
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from llmcausal.memory.budget import GpuTraits
from llmcausal.memory.trace import Allocation, Trace

FUSED_ROWS = 256
"""Rows up to which CUDA multiplies by 4-bit weights without unpacking them (Ada: 8 to 256 by
shape; for fewer rows than this a product is small beside the peak)."""

Temporaries = list[tuple[str, int]]


def hidden_temporaries(func: Any, args: Sequence[Any], gpu: GpuTraits | None) -> Temporaries:
    """Returns (component, bytes) of what an operation takes beside its results.

    Args:
        func: The operation, as a dispatch mode sees it.
        args: Its arguments.
        gpu: The GPU that computes; None: the CPU.
    """
    find = _BY_NAME.get(func.name())
    return [] if find is None else [pair for pair in find(args, gpu) if pair[1]]


def _gemm_4bit(args: Sequence[Any], gpu: GpuTraits | None) -> Temporaries:
    rows, shape, absmax, blocksize = args[0], args[2], args[3], args[4]
    numbers = math.prod(shape)
    if gpu and rows.numel() // rows.shape[-1] <= FUSED_ROWS:
        return []
    scales = 4 * numbers // blocksize
    nested = absmax.numel() != numbers // blocksize
    unpacked = [scales] * (2 if gpu else 1) if nested else []
    return [("dequantization", size) for size in (*unpacked, numbers * rows.dtype.itemsize)]


def _logsumexp(args: Sequence[Any], gpu: GpuTraits | None) -> Temporaries:
    return [("logits", args[0].numel() * args[0].dtype.itemsize)]


def _flash_backward(args: Sequence[Any], gpu: GpuTraits | None) -> Temporaries:
    """As the deterministic form has it: as many sums of the query's gradient as fill the GPU."""
    (component, size), *others = _attention_backward(args, gpu)
    parts = -(-gpu.multiprocessors // math.prod(args[1].shape[:2])) if gpu else 1
    return [(component, size * parts), *others]


def _attention_backward(args: Sequence[Any], gpu: GpuTraits | None) -> Temporaries:
    query, key = args[1], args[2]
    found = [("activations", 4 * math.prod(query.shape))]
    if key.shape[1] < query.shape[1]:  # gradients by query head of keys and values, to be summed
        size = query.shape[1] * math.prod(key.shape) // key.shape[1] * key.dtype.itemsize
        found += [("activations", size)] * 2
    return found


def _tile(args: Sequence[Any], query: Any) -> tuple[int, int, int]:
    rows, width = query.shape[2], query.shape[3]
    split = 256 if rows >= 768 else 64 if rows >= 192 else 32
    return min(split, rows), min(512, args[1].shape[2]), width


def _cpu_attention(args: Sequence[Any], gpu: GpuTraits | None) -> Temporaries:
    rows, keys, width = _tile(args, args[0])
    numbers = rows * keys + 2 * rows + rows * width
    return [("activations", 4 * numbers * torch.get_num_threads())]


def _cpu_attention_backward(args: Sequence[Any], gpu: GpuTraits | None) -> Temporaries:
    rows, keys, _ = _tile(args[1:], args[1])
    return [("activations", 4 * 2 * rows * keys * torch.get_num_threads())]


_BY_NAME: dict[str, Callable[[Sequence[Any], GpuTraits | None], Temporaries]] = {
    "bitsandbytes::gemm_4bit": _gemm_4bit,
    "aten::logsumexp": _logsumexp,
    "aten::_scaled_dot_product_flash_attention_backward": _flash_backward,
    "aten::_scaled_dot_product_efficient_attention_backward": _attention_backward,
    "aten::_scaled_dot_product_flash_attention_for_cpu": _cpu_attention,
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": _cpu_attention_backward,
}


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
