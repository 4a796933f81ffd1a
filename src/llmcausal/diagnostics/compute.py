"""Checks of what computes: torch itself, bitsandbytes, bf16 on the CPU."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING

from llmcausal.diagnostics.check import DoctorCheck, one_line
from llmcausal.diagnostics.facts import Facts

if TYPE_CHECKING:
    import torch

MOST_NF4_ROUNDING = 0.15
"""Rounding normal values to 16 levels in blocks of 64 costs about 9% of their norm."""
MOST_PRODUCT_ERROR = 1e-2


def check_torch(facts: Facts) -> DoctorCheck:
    """Checks that torch can be imported, and tells its CUDA build."""
    torch = facts.machine.torch
    if torch is None:
        return DoctorCheck(
            "torch",
            "fail",
            f"torch cannot be imported: {facts.machine.torch_problem}",
            "install it again: pip install --force-reinstall torch",
        )
    build = "{}.{}".format(*torch.cuda) if torch.cuda else None
    return DoctorCheck(
        "torch", "pass", f"{torch.version}, " + (f"CUDA {build}" if build else "without CUDA")
    )


def check_bitsandbytes(facts: Facts) -> DoctorCheck:
    """Exercises NF4 and the 8-bit optimizer on the device that the profile would train on."""
    import torch

    # Its advice about kernels and paging on the CPU is no finding.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    device = torch.device("cuda" if facts.on_gpu else "cpu")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            rounding, error = nf4_errors(device)
            moved = adamw8bit_moves(device)
    except Exception as problem:  # whatever a broken native library raises
        return DoctorCheck(
            "bitsandbytes",
            "fail",
            f"{type(problem).__name__}: {one_line(str(problem))}",
            "install it again: pip install --force-reinstall --no-deps bitsandbytes",
        )
    if rounding > MOST_NF4_ROUNDING or error > MOST_PRODUCT_ERROR:
        detail = (
            f"NF4 rounds by {rounding:.0%}, its product is off by {error:.0%}, on {device.type}"
        )
    elif not moved:
        detail = f"an 8-bit AdamW step does not change the weights on {device.type}"
    else:
        found = f"NF4 (rounds by {rounding:.1%}) and 8-bit AdamW work on {device.type}"
        return DoctorCheck("bitsandbytes", "pass", found)
    fix = "install its newest version: pip install --upgrade --no-deps bitsandbytes"
    return DoctorCheck("bitsandbytes", "fail", detail, fix)


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

    # From 4096 elements on, bitsandbytes keeps the states in 8 bits; from 100,000 on it pages them.
    weight = torch.nn.Parameter(torch.ones(320, 320, device=device))
    before = weight.detach().clone()
    optimizer = bnb.optim.PagedAdamW8bit([weight], lr=1e-2)
    weight.sum().backward()
    optimizer.step()
    return bool(((weight != before) & weight.isfinite()).all())


def check_bf16(facts: Facts) -> DoctorCheck | None:
    """Measures bf16 against fp32 where training is on the CPU: many processors only emulate it."""
    if facts.on_gpu:
        return None
    from llmcausal.model.device import FASTER_BF16, bf16_speedup

    speedup = bf16_speedup()
    told = (
        f"a layer is {speedup:.2g} times as fast as in fp32 on this CPU (measured)"
        if speedup
        else "this CPU has no instructions for it"
    )
    faster = speedup >= FASTER_BF16
    precision = facts.config.model.precision
    if precision == "auto":
        return DoctorCheck("bf16", "pass", f"{told}; {'bf16' if faster else 'fp32'} is used")
    if precision != "bf16":
        return DoctorCheck("bf16", "pass", f"{told}; the profile uses fp32")
    if faster:
        return DoctorCheck("bf16", "pass", told)
    return DoctorCheck(
        "bf16", "warning", f"slow: {told}", "train in fp32: --set model.precision=fp32"
    )
