"""The device and the dtype that compute."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from llmcausal.errors import ConfigError, OutOfMemoryError, first_line
from llmcausal.launched import in_windows, local_index

FASTER_BF16 = 1.5
"""Least speed relative to fp32 with which `auto` takes bf16 on a CPU."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str) -> torch.device:
    """Returns the device; a `ConfigError` if CUDA is absent, or has fewer GPUs than processes."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError(
            "model.device = 'cuda', but torch sees no CUDA device. `llmcausal doctor` says why; "
            "`--set model.device=cpu` trains on the CPU."
        )
    if not available or name == "cpu":
        return torch.device("cpu")
    index = local_index()
    if index is None:
        return torch.device("cuda")
    if index >= torch.cuda.device_count():
        raise ConfigError(
            f"process {index} of this machine has no GPU: torch sees {torch.cuda.device_count()}; "
            "start as many processes as there are GPUs"
        )
    return torch.device("cuda", index)


def has_bf16() -> bool:
    """Tells whether the GPU computes bf16 natively; torch also counts slow emulation."""
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def has_flash_attention() -> bool:
    """Tells whether torch has flash attention for this GPU; without a GPU, whether its wheels have.

    It needs compute capability 8.0, and torch's wheels for Windows are built without it.
    """
    if not torch.cuda.is_available():
        return not in_windows()
    built = torch.backends.cuda.is_flash_attention_available()
    return bool(built) and torch.cuda.get_device_capability() >= (8, 0)


def has_bf16_instructions() -> bool:
    """Tells whether the processor multiplies bf16 natively (AMX, AVX512-BF16, Arm's bf16)."""
    found = torch.cpu.get_capabilities()
    return any(found.get(name) for name in ("amx_bf16", "avx512_bf16", "arm_bf16", "bf16"))


@functools.cache
def bf16_speedup(tokens: int = 512, width: int = 576, hidden: int = 1536, rounds: int = 5) -> float:
    """Measures a linear layer's speed in bf16, relative to fp32, on this CPU, in under 0.5 s.

    The layer is frozen and runs forward and backward; its default shape is that of the shipped
    CPU profile's model. The dtypes take turns, so another program slows both. The result is 0 if
    the processor only emulates bf16, which is many times slower.
    """
    if not has_bf16_instructions():
        return 0.0
    dtypes = (torch.float32, torch.bfloat16)
    layers = [torch.nn.Linear(width, hidden, bias=False, dtype=dtype) for dtype in dtypes]
    ratios = []
    for _ in range(rounds + 1):
        seconds = []
        for layer, dtype in zip(layers, dtypes, strict=True):
            inputs = torch.ones(tokens, width, dtype=dtype, requires_grad=True)
            gradient = torch.ones(tokens, hidden, dtype=dtype)
            layer.requires_grad_(False)
            start = time.perf_counter()
            torch.autograd.backward(layer(inputs), gradient)
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios[1:])  # the first one warms up


def settled_precision(precision: str, device: torch.device) -> tuple[str, str]:
    """Returns a run's precision, and a note for the user (may be empty).

    Only `auto` changes: to fp16 on a GPU without bf16, so that the plan counts it, and to the
    faster dtype on a CPU.
    """
    if device.type == "cuda" and precision == "auto" and not has_bf16():
        return "fp16", "precision: fp16; this GPU has no bf16"
    if device.type != "cpu" or precision == "fp16":
        return precision, ""
    names = {dtype: name for name, dtype in DTYPES.items()}
    better = names[choose_dtype("auto", device)]
    speedup = bf16_speedup()
    measured = (
        f"products are {speedup:.1f} times as fast in bf16 as in fp32 on this CPU (measured)"
        if speedup
        else "this CPU has no bf16 instructions"
    )
    if precision == "auto":
        return better, f"precision: {better}; {measured}"
    if precision == better:
        return precision, ""
    return precision, f"precision: {precision}, as set; auto would take {better}: {measured}"


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Returns the compute dtype; `auto` is the device's best, measured on a CPU.

    Raises:
        ConfigError: If the device cannot compute in the requested precision.
    """
    if precision != "auto":
        if precision == "fp16" and device.type == "cpu":
            raise ConfigError("model.precision = 'fp16' needs CUDA; use fp32 on the CPU")
        if precision == "bf16" and device.type == "cuda" and not has_bf16():
            raise ConfigError("model.precision = 'bf16': this GPU has no bf16; use fp16")
        return DTYPES[precision]
    if device.type == "cpu":
        return torch.bfloat16 if bf16_speedup() >= FASTER_BF16 else torch.float32
    return torch.bfloat16 if has_bf16() else torch.float16


def expected_dtype(precision: str, device_type: str) -> torch.dtype:
    """Returns the compute dtype on a device that may be absent: for `auto` bf16 on CUDA."""
    if precision != "auto":
        return DTYPES[precision]
    return torch.float32 if device_type == "cpu" else torch.bfloat16


@contextmanager
def out_of_memory_explained(moment: str) -> Iterator[None]:
    """Turns torch's out-of-memory error into an `OutOfMemoryError` that says what to lower."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise OutOfMemoryError(
            f"Out of GPU memory {moment}: {first_line(error)}\n"
            "Lower data.max_length, then train.batch_size, then lora.rank; set "
            "memory.activations to offload. Checkpoints are intact."
        ) from error
