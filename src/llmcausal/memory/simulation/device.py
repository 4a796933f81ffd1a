"""A device named `sim` that stands in for CUDA, and a tracker of what is allocated on a device.

Fake tensors live on `sim`; nothing is computed. A torch built for CPUs cannot run autograd on fake
CUDA tensors, but can on those of a backend that is registered from Python. What CUDA would do
differently from torch's defaults for such a backend is set here: which operations autocast casts,
and which attention kernels run.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

from llmcausal.memory.prediction import GpuTraits
from llmcausal.memory.simulation.trace import Allocation, Trace

SIM = "sim"

_LOWER = (
    "linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "addbmm", "mv", "addmv",
    "scaled_dot_product_attention",
)  # fmt: skip
_WIDER = (
    "pow.Tensor_Scalar", "rsqrt", "logsumexp", "cosine_similarity", "layer_norm", "softmax.int",
    "log_softmax.int", "cross_entropy_loss", "nll_loss", "sum", "sum.dim_IntList", "exp", "log",
)  # fmt: skip
"""What autocast on CUDA computes in fp32; of its list, what language models use."""

_KERNELS = ("silu_backward",)
"""What CUDA computes in one kernel, and torch in several for a backend that has none."""

_MASK_ALIGNMENT = 16

_TRAITS = [GpuTraits()]
"""Traits of the simulated GPU; the last entry counts."""


class _Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def get_rng_state(self, device: object = SIM) -> Tensor:
        return torch.empty(0, dtype=torch.uint8)

    def set_rng_state(self, state: Tensor, device: object = SIM) -> None:
        pass


class _CastCache:
    """Casts of trained fp32 weights, kept until autocast ends, as torch's own cache does."""

    def __init__(self) -> None:
        self.casts: dict[int, tuple[Tensor, Tensor]] = {}

    def cast(self, value: Any, dtype: torch.dtype) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(self.cast(each, dtype) for each in value)
        eligible = isinstance(value, Tensor) and value.device.type == SIM
        if not eligible or not value.is_floating_point() or value.dtype in (dtype, torch.float64):
            return value
        keep = value.requires_grad and value.is_leaf and value.dtype == torch.float32
        if not (keep and torch.is_autocast_cache_enabled()) or dtype == torch.float32:
            return value.to(dtype)
        if id(value) not in self.casts:
            self.casts[id(value)] = (value, value.to(dtype))
        return self.casts[id(value)][1]


_CASTS = _CastCache()


def _casting(name: str, dtype: torch.dtype | None) -> Callable[..., Any]:
    packet, _, overload = name.partition(".")
    operation = getattr(getattr(torch.ops.aten, packet), overload or "default")
    key: Any = torch._C.DispatchKey  # its stub lacks most keys
    keys = torch._C.DispatchKeySet(key.AutocastPrivateUse1)

    def kernel(*args: Any, **kwargs: Any) -> Any:
        wanted = dtype or torch.get_autocast_dtype(SIM)
        with torch._C._ExcludeDispatchKeyGuard(keys):
            args = _CASTS.cast(args, wanted)
            kwargs = {key: _CASTS.cast(value, wanted) for key, value in kwargs.items()}
            return operation(*args, **kwargs)

    return kernel


def _attention(  # noqa: PLR0913 - torch's signature
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Runs the kernel that CUDA chooses: flash without a mask, else the memory-efficient one."""
    if attn_mask is None and _has_flash(query):
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        attended: Tensor = flash(query, key, value, dropout_p, is_causal, scale=scale)[0]
        return attended
    if enable_gqa:
        groups = query.shape[1] // key.shape[1]
        key, value = (each.repeat_interleave(groups, 1) for each in (key, value))
    if attn_mask is not None:
        attn_mask = _aligned(attn_mask).expand(*query.shape[:2], query.shape[2], key.shape[2])
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    grad = torch.is_grad_enabled() and any(each.requires_grad for each in (query, key, value))
    attended = efficient(query, key, value, attn_mask, grad, dropout_p, is_causal, scale=scale)[0]
    return attended


def _aligned_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *options: Any,
    scale: float | None = None,
) -> tuple[Tensor]:
    """Stands for `aten::_efficient_attention_forward`: the same kernel, by its other name.

    In torch 2.13 the backward pass of the former fails on fake tensors.
    """
    *_, dropout_p, _mask_type, keeps_sums = options
    turned = [each.transpose(1, 2) for each in (query, key, value)]
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    attended = efficient(*turned, None, keeps_sums, dropout_p, True, scale=scale)[0]
    return (attended.transpose(1, 2),)


def _has_flash(query: Tensor) -> bool:
    return query.dtype in (torch.bfloat16, torch.float16) and _TRAITS[-1].flash


def _aligned(mask: Tensor) -> Tensor:
    """Copies a mask whose rows do not begin at multiples of 16, as the kernel wants them."""
    columns = mask.shape[-1]
    over = columns % _MASK_ALIGNMENT
    if not over:
        return mask
    padded = torch.nn.functional.pad(mask, (0, _MASK_ALIGNMENT - over))
    return padded[..., :columns]


def _never(*_: Any, **__: Any) -> Any:
    raise NotImplementedError("the simulated device has fake tensors only")


@cache
def _register() -> tuple[torch.library.Library, ...]:
    """Makes the device known to torch, once a process; the libraries must stay alive."""
    _setup_privateuseone_for_python_backend(SIM, backend_module=_Backend())
    rest = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
    rest.fallback(torch.library.fallthrough_kernel)
    casts = torch.library.Library("aten", "IMPL", "AutocastPrivateUse1")
    for names, dtype in ((_LOWER, None), (_WIDER, torch.float32)):
        for name in names:
            casts.impl(name, _casting(name, dtype))
    attention = torch.library.Library("aten", "IMPL", "AutogradPrivateUse1")
    attention.impl("scaled_dot_product_attention", _attention)
    kernels = torch.library.Library("aten", "IMPL", "PrivateUse1")
    for name in _KERNELS:
        kernels.impl(name, _never)
    return rest, casts, attention, kernels


@contextmanager
def simulated_device(gpu: GpuTraits) -> Iterator[torch.device]:
    """Yields a device with these traits, with what asks torch about CUDA answered for it."""
    _register()
    is_enabled, clear = torch.is_autocast_enabled, torch.clear_autocast_cache

    def enabled(device_type: str | None = None) -> bool:
        # peft asks without a device, which means CUDA.
        return is_enabled(device_type or SIM)

    def cleared() -> None:
        _CASTS.casts.clear()
        clear()

    with ExitStack() as stack:
        stack.enter_context(patch.object(torch, "is_autocast_enabled", enabled))
        stack.enter_context(patch.object(torch, "clear_autocast_cache", cleared))
        kernels = {
            "can_use_flash_attention": lambda asked: _has_flash(asked.query),
            "can_use_efficient_attention": lambda asked: not asked.enable_gqa,
        }
        for name, answer in kernels.items():
            stack.enter_context(patch.object(torch.backends.cuda, name, answer))
        aten = torch.ops.aten
        stack.enter_context(patch.object(aten, "_efficient_attention_forward", _aligned_attention))
        _TRAITS.append(gpu)
        try:
            yield torch.device(SIM)
        finally:
            _TRAITS.pop()
            _CASTS.casts.clear()


FUSED_ROWS = 256
"""Rows up to which CUDA multiplies by 4-bit weights without unpacking them (Ada: 8 to 256 by
shape; for fewer rows than this a product is small compared with the peak)."""

Workspaces = list[tuple[str, int]]


# Memory that an operation takes while it runs and that no tensor outside it shows. Read in the
# source of bitsandbytes 0.50 (`backends/*/ops.py`: `_dequant_linear_fallback`,
# `_gemm_4bit_default_impl`) and of torch 2.13 (`ReduceOps.cpp`: `logsumexp_out_impl`;
# `flash_attn/flash_api.cpp`, `mem_eff_attention/kernel_backward.h`: the query's gradient in fp32;
# `mha_bwd` in the first: `dk_expanded`, `dv_expanded`, `dq_accum` by `nsplits`;
# `FlashAttentionKernel.cpp`: scores of one tile for each thread).


def workspaces(func: Any, args: Sequence[Any], gpu: GpuTraits | None) -> Workspaces:
    """Returns (component, bytes) of what an operation takes besides its results.

    Args:
        func: The operation, as a dispatch mode sees it.
        args: Its arguments.
        gpu: The GPU that computes; None: the CPU.
    """
    find = _BY_NAME.get(func.name())
    return [] if find is None else [pair for pair in find(args, gpu) if pair[1]]


def _gemm_4bit(args: Sequence[Any], gpu: GpuTraits | None) -> Workspaces:
    rows, shape, absmax, blocksize = args[0], args[2], args[3], args[4]
    numbers = math.prod(shape)
    if gpu and rows.numel() // rows.shape[-1] <= FUSED_ROWS:
        return []
    scales = 4 * numbers // blocksize
    nested = absmax.numel() != numbers // blocksize
    unpacked = [scales] * (2 if gpu else 1) if nested else []
    return [("dequantization", size) for size in (*unpacked, numbers * rows.dtype.itemsize)]


def _logsumexp(args: Sequence[Any], gpu: GpuTraits | None) -> Workspaces:
    return [("logits", args[0].numel() * args[0].dtype.itemsize)]


def _flash_backward(args: Sequence[Any], gpu: GpuTraits | None) -> Workspaces:
    """As the deterministic form has it: as many sums of the query's gradient as fill the GPU."""
    query, key = args[1], args[2]
    parts = -(-gpu.multiprocessors // math.prod(query.shape[:2])) if gpu else 1
    found = [("activations", size * parts) for _, size in _efficient_backward(args, gpu)]
    if key.shape[1] < query.shape[1]:  # gradients by query head of keys and values, to be summed
        size = query.shape[1] * math.prod(key.shape) // key.shape[1] * key.dtype.itemsize
        found += [("activations", size)] * 2
    return found


def _efficient_backward(args: Sequence[Any], gpu: GpuTraits | None) -> Workspaces:
    return [("activations", 4 * math.prod(args[1].shape))]


def _tile(query: Any, key: Any) -> tuple[int, int, int]:
    rows, width = query.shape[2], query.shape[3]
    split = 256 if rows >= 768 else 64 if rows >= 192 else 32
    return min(split, rows), min(512, key.shape[2]), width


def _cpu_attention(args: Sequence[Any], gpu: GpuTraits | None) -> Workspaces:
    rows, keys, width = _tile(args[0], args[1])
    numbers = rows * keys + 2 * rows + rows * width
    return [("activations", 4 * numbers * torch.get_num_threads())]


def _cpu_attention_backward(args: Sequence[Any], gpu: GpuTraits | None) -> Workspaces:
    rows, keys, _ = _tile(args[1], args[2])
    return [("activations", 4 * 2 * rows * keys * torch.get_num_threads())]


_BY_NAME: dict[str, Callable[[Sequence[Any], GpuTraits | None], Workspaces]] = {
    "bitsandbytes::gemm_4bit": _gemm_4bit,
    "aten::logsumexp": _logsumexp,
    "aten::_scaled_dot_product_flash_attention_backward": _flash_backward,
    "aten::_scaled_dot_product_efficient_attention_backward": _efficient_backward,
    "aten::_scaled_dot_product_flash_attention_for_cpu": _cpu_attention,
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": _cpu_attention_backward,
}

_COMPONENTS = {"weights": "misc", "loss": "logits", "optimizer": "misc"}


class AllocationTracker(TorchDispatchMode):
    """Writes a trace of what happens on a device and on the host next to it.

    Args:
        device: Type of the device that computes; `cpu` has no host next to it.
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
        """Runs an operation and notes its workspaces and the storages that its results add."""
        ids = [
            self.trace.allocate(Allocation(size, component, f"inside {func}", self.phase))
            for component, size in workspaces(func, args, self.gpu)
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
        """Says that only `size` bytes of a known tensor are held."""
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
