"""A device named `sim` that stands in for CUDA, and a tracker of a device's allocations.

Fake tensors are on `sim`; nothing is computed. A torch built for CPUs cannot run autograd on fake
CUDA tensors, but it can on those of a backend registered from Python. This module sets where CUDA
differs from torch's defaults for such a backend: which operations autocast casts, and which
attention kernels run.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
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
from llmcausal.memory.simulation.operations import kernels_of, workspaces
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
"""Operations that autocast on CUDA runs in fp32, as far as language models use them."""

_KERNELS = ("silu_backward", "_fused_rms_norm", "_fused_rms_norm_backward")
"""Operations with one kernel on CUDA, which torch decomposes for a backend without a kernel."""

_MASK_ALIGNMENT = 16

_TRAITS = [GpuTraits()]
"""Traits of the simulated GPU; the last entry is in force."""


class _Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def get_rng_state(self, device: object = SIM) -> Tensor:
        return torch.empty(0, dtype=torch.uint8)

    def set_rng_state(self, state: Tensor, device: object = SIM) -> None:
        pass


_CASTS: dict[int, tuple[Tensor, Tensor]] = {}
"""Trained fp32 weights and their casts, kept until autocast ends, like torch's own cache."""


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_cast(each, dtype) for each in value)
    eligible = isinstance(value, Tensor) and value.device.type == SIM
    if not eligible or not value.is_floating_point() or value.dtype in (dtype, torch.float64):
        return value
    keep = value.requires_grad and value.is_leaf and value.dtype == torch.float32
    if not (keep and torch.is_autocast_cache_enabled()) or dtype == torch.float32:
        return value.to(dtype)
    if id(value) not in _CASTS:
        _CASTS[id(value)] = (value, value.to(dtype))
    return _CASTS[id(value)][1]


def _casting(name: str, dtype: torch.dtype | None) -> Callable[..., Any]:
    packet, _, overload = name.partition(".")
    operation = getattr(getattr(torch.ops.aten, packet), overload or "default")
    key: Any = torch._C.DispatchKey  # its stub lacks most keys
    keys = torch._C.DispatchKeySet(key.AutocastPrivateUse1)

    def kernel(*args: Any, **kwargs: Any) -> Any:
        wanted = dtype or torch.get_autocast_dtype(SIM)
        with torch._C._ExcludeDispatchKeyGuard(keys):
            args = _cast(args, wanted)
            kwargs = {key: _cast(value, wanted) for key, value in kwargs.items()}
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
    """Runs CUDA's choice: flash without a mask, else the memory-efficient kernel."""
    if attn_mask is None and _has_flash(query, key, value):
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


_FLASH_WIDTH = 256
"""Widest head of torch's flash attention (`sdp_utils.cpp`: `check_head_dim_size_flash`)."""


def _has_flash(query: Tensor, key: Tensor, value: Tensor) -> bool:
    narrow = query.dtype in (torch.bfloat16, torch.float16)
    fits = query.shape[-1] == key.shape[-1] == value.shape[-1] <= _FLASH_WIDTH
    return narrow and fits and _TRAITS[-1].flash


def _aligned(mask: Tensor) -> Tensor:
    """Copies a mask unless its rows begin at multiples of 16, which the kernel needs."""
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
    """Registers the device once per process; the libraries must stay alive."""
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
    """Yields a device with these traits; questions to torch about CUDA get its answers."""
    _register()
    is_enabled, clear = torch.is_autocast_enabled, torch.clear_autocast_cache

    def enabled(device_type: str | None = None) -> bool:
        # peft asks without a device, which means CUDA.
        return is_enabled(device_type or SIM)

    def cleared() -> None:
        _CASTS.clear()
        clear()

    with ExitStack() as stack:
        stack.enter_context(patch.object(torch, "is_autocast_enabled", enabled))
        stack.enter_context(patch.object(torch, "clear_autocast_cache", cleared))
        kernels = {
            "can_use_flash_attention": lambda asked: _has_flash(
                asked.query, asked.key, asked.value
            ),
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
            _CASTS.clear()


_COMPONENTS = {"weights": "misc", "loss": "logits", "optimizer": "misc"}


class AllocationTracker(TorchDispatchMode):
    """Traces the allocations on a device and its host; no GPU means the CPU, its own host."""

    def __init__(self, device: str, gpu: GpuTraits | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self.gpu = gpu
        self.trace = Trace()
        self.phase = "weights"  # later `forward`, `loss`, `backward` or `optimizer`
        self.times = 1  # how often the step runs the current operations
        self._known: dict[int, int] = {}
        self._watched: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        ids = [
            self.trace.allocate(Allocation(size, component, f"inside {func}", self.phase))
            for component, size in workspaces(func, args, self.gpu)
        ]
        result = func(*args, **(kwargs or {}))
        for kernel in kernels_of(func, args, kwargs or {}, result, self.gpu):
            self.trace.kernels[-1][kernel] += self.times
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf, func)
        for each in reversed(ids):
            self.trace.free(each)
        return result

    def register(self, tensor: Tensor, component: str, what: str) -> None:
        """Sets a tensor's component; notes it if it is new."""
        self._note(tensor, None)
        known = self._known.get(id(tensor.untyped_storage()))
        if known is not None:
            allocation = self.trace.allocations[known]
            allocation.component, allocation.what = component, what

    def resize(self, tensor: Tensor, size: int) -> None:
        """Sets the bytes that are held of a known tensor."""
        self.trace.allocations[self._known[id(tensor.untyped_storage())]].size = size

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
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
        # The storage, not the tensor: views share it and outlive the tensor.
        self._watched[key] = weakref.ref(storage, lambda _: self._forget(key, number))

    def _forget(self, key: int, number: int) -> None:
        del self._known[key], self._watched[key]
        self.trace.free(number)
