"""Which device and which dtype to compute with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from llmcausal.errors import ConfigError, OutOfMemoryError
from llmcausal.launched import local_index

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str) -> torch.device:
    """Returns the device to train on.

    Raises:
        ConfigError: If CUDA is asked for and absent, or there are more processes than GPUs.
    """
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
    """Tells whether the GPU computes bf16 itself; torch also counts emulation, which is slow."""
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Returns the compute dtype; `auto` is what the device does well.

    CPUs without AMX run bf16 many times slower than fp32, so `auto` is fp32 there.

    Raises:
        ConfigError: If the device cannot compute in the precision asked for.
    """
    if precision != "auto":
        if precision == "fp16" and device.type == "cpu":
            raise ConfigError("model.precision = 'fp16' needs CUDA; use fp32 on the CPU")
        if precision == "bf16" and device.type == "cuda" and not has_bf16():
            raise ConfigError("model.precision = 'bf16': this GPU has no bf16; use fp16")
        return DTYPES[precision]
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if has_bf16() else torch.float16


def expected_dtype(precision: str, device_type: str) -> torch.dtype:
    """Returns the compute dtype on a device that need not be here: for `auto` bf16 on CUDA."""
    if precision != "auto":
        return DTYPES[precision]
    return torch.float32 if device_type == "cpu" else torch.bfloat16


@contextmanager
def out_of_memory_explained(moment: str) -> Iterator[None]:
    """Turns torch's out-of-memory error into one that says what to lower.

    Raises:
        OutOfMemoryError: In place of torch's.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise OutOfMemoryError(
            f"Out of GPU memory {moment}: {str(error).splitlines()[0]}\n"
            "Lower data.max_length, then train.batch_size, then lora.rank; set "
            "memory.activations to offload. Checkpoints are intact."
        ) from error
