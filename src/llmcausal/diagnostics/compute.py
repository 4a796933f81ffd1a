"""Checks of what computes: torch and its device, bitsandbytes, bf16."""

from __future__ import annotations

import logging
import time
import warnings
from typing import TYPE_CHECKING

from llmcausal.config import RunConfig
from llmcausal.diagnostics.check import Check
from llmcausal.errors import ConfigError

if TYPE_CHECKING:
    import torch

GIB = 2**30
MOST_NF4_ROUNDING = 0.15
"""Rounding normal values to 16 levels in blocks of 64 costs about 9% of their norm."""
MOST_PRODUCT_ERROR = 1e-2
SLOW_BF16 = 1.5
"""From this many times the time of fp32 on, bf16 on the CPU counts as slow."""


def check_device(config: RunConfig) -> Check:
    """Checks torch's build and the device that the profile would train on."""
    import torch

    from llmcausal.model.device import choose_device, choose_dtype, has_bf16

    build = f"torch {torch.__version__}"
    try:
        device = choose_device(config.model.device)
        choose_dtype(config.model.precision, device)
    except ConfigError as error:
        return Check("device", "fail", f"{build}: {error}", _cuda_fix())
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        bf16 = "bf16" if has_bf16() else "no bf16"
        name = torch.cuda.get_device_name(device)
        detail = f"{build}, {name}, {free / GIB:.1f} GiB free of {total / GIB:.1f}, {bf16}"
        return Check("device", "pass", detail)
    if config.model.device == "auto" and (unused := nvidia_name()):
        detail = f"{build} cannot use the {unused}; CPU instead"
        return Check("device", "warning", detail, _cuda_fix())
    return Check("device", "pass", f"{build}, CPU, {torch.get_num_threads()} thread(s)")


def nvidia_name() -> str | None:
    """Returns the name of the first NVIDIA GPU that the driver sees, without torch."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0)))
    except pynvml.NVMLError:
        return None


def _cuda_fix() -> str:
    import torch

    if torch.version.cuda is None and nvidia_name():
        return "install a CUDA build of torch (pytorch.org), or --set model.device=cpu"
    return "install the NVIDIA driver, or --set model.device=cpu model.precision=auto"


def check_bitsandbytes(config: RunConfig) -> Check:
    """Exercises NF4 and the 8-bit optimizer on the device that the profile would train on."""
    from llmcausal.model.device import choose_device

    # Its advice about kernels and paging on the CPU is no finding.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    device = choose_device(config.model.device)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            rounding, error = nf4_errors(device)
            moved = adamw8bit_moves(device)
    except Exception as problem:  # whatever a broken native library raises
        return Check(
            "bitsandbytes",
            "fail",
            f"{type(problem).__name__}: {' '.join(str(problem).split())}",
            "reinstall it: pip install --force-reinstall bitsandbytes",
        )
    if rounding > MOST_NF4_ROUNDING or error > MOST_PRODUCT_ERROR:
        detail = (
            f"NF4 rounds by {rounding:.0%}, its product is off by {error:.0%}, on {device.type}"
        )
    elif not moved:
        detail = f"an 8-bit AdamW step leaves the weights as they are on {device.type}"
    else:
        found = f"NF4 (rounds by {rounding:.1%}) and 8-bit AdamW work on {device.type}"
        return Check("bitsandbytes", "pass", found)
    return Check("bitsandbytes", "fail", detail, "install another bitsandbytes version")


def nf4_errors(device: torch.device) -> tuple[float, float]:
    """Returns the relative errors of rounding to NF4, and of the NF4 product.

    The product is compared with that of the dequantized weight.
    """
    import bitsandbytes as bnb
    import torch

    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(256, 256, generator=generator).to(device)
    inputs = torch.randn(16, 256, generator=generator).to(device)
    packed, state = bnb.functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    restored = bnb.functional.dequantize_4bit(packed, state)
    reference = inputs @ restored.T
    product = bnb.matmul_4bit(inputs, packed.t(), quant_state=state)
    return (
        float((restored - weight).norm() / weight.norm()),
        float((product - reference).norm() / reference.norm()),
    )


def adamw8bit_moves(device: torch.device) -> bool:
    """Says whether one paged 8-bit AdamW step changes every weight to a finite value."""
    import bitsandbytes as bnb
    import torch

    # From 4096 elements on, bitsandbytes keeps the states in 8 bits.
    weight = torch.nn.Parameter(torch.ones(128, 128, device=device))
    before = weight.detach().clone()
    optimizer = bnb.optim.PagedAdamW8bit([weight], lr=1e-2)
    weight.sum().backward()
    optimizer.step()
    return bool(((weight != before) & weight.isfinite()).all())


def check_bf16(config: RunConfig) -> Check:
    """Times bf16 against fp32 on the CPU, where many processors only emulate it."""
    from llmcausal.model.device import choose_device

    if choose_device(config.model.device).type != "cpu":
        return Check("bf16", "pass", "not timed: training is on the GPU")
    ratio = bf16_slowdown()
    told = f"{ratio:.1f} times the time of fp32 on this CPU"
    if ratio < SLOW_BF16:
        return Check("bf16", "pass", told)
    if config.model.precision == "bf16":
        return Check("bf16", "warning", told, "train in fp32: --set model.precision=fp32")
    return Check("bf16", "pass", f"{told}; fp32 is used")


def bf16_slowdown(size: int = 384, rounds: int = 5) -> float:
    """Returns how many times longer a matrix product takes in bf16 than in fp32, best of some."""
    import torch

    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(size, size, dtype=dtype)
        timed = []
        for _ in range(rounds):
            start = time.perf_counter()
            matrix @ matrix
            timed.append(time.perf_counter() - start)
        seconds[dtype] = min(timed)
    return seconds[torch.bfloat16] / seconds[torch.float32]
