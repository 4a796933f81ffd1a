"""A device named `sim` that stands in for CUDA: fake tensors live on it, nothing is computed.

A torch built for CPUs cannot run autograd on fake CUDA tensors, but can on those of a backend
that is registered from Python. What CUDA would do differently from torch's defaults for such a
backend is taught to it here: which operations autocast casts, and which attention kernels run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

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


class _Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def get_rng_state(self, device: object = SIM) -> Tensor:
        return torch.empty(0, dtype=torch.uint8)

    def set_rng_state(self, state: Tensor, device: object = SIM) -> None:
        pass


class _CastCache:
    """Casts of trained fp32 weights, kept until autocast is left, as torch's own cache does."""

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
    if attn_mask is None and query.dtype in (torch.bfloat16, torch.float16):
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
def simulated_device() -> Iterator[torch.device]:
    """Yields the device, with what asks torch about CUDA answered for it."""
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
        try:
            yield torch.device(SIM)
        finally:
            _CASTS.casts.clear()
