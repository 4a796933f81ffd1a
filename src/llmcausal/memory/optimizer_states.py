"""What an optimizer holds between steps, and takes during one, by formula.

bitsandbytes (`optim/optimizer.py`, `backends/cpu/ops.py`): parameters of 4096 numbers and more have
two states of a byte a number with a scale for each 256, smaller ones two of fp32; on CUDA the paged
optimizer keeps states of 1e5 numbers and more in managed memory, which is the host's until it is
used, but for the Windows driver (`GpuTraits.pages`). torch's AdamW: two states of fp32; on CUDA
(`foreach`) a copy of one of them while it steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SMALLEST_8BIT = 4096
SMALLEST_PAGED = 100_000
BLOCK = 256

Name = Literal["paged_adamw_8bit", "adamw_8bit", "adamw"]


@dataclass(frozen=True)
class States:
    """Bytes of each tensor that one parameter's states take, on the device and on the host."""

    device: tuple[int, ...]
    host: tuple[int, ...] = ()


def states_of(name: Name, numbers: int, width: int, *, pages: bool) -> States:
    """Returns the states of a parameter.

    Args:
        name: `train.optimizer`.
        numbers: Of the parameter.
        width: Bytes of each of its numbers.
        pages: Whether a paged optimizer pages there: on CUDA, but for the Windows driver.
    """
    if name == "adamw":
        return States((width * numbers,) * 2)
    if numbers < SMALLEST_8BIT:
        return States((4 * numbers,) * 2)
    scales = (4 * -(-numbers // BLOCK),) * 2
    if name == "paged_adamw_8bit" and pages and numbers >= SMALLEST_PAGED:
        return States(scales, (numbers,) * 2)
    return States((*((numbers,) * 2), *scales))


def temporary_bytes(name: Name, largest: int, total: int, width: int, *, on_cuda: bool) -> int:
    """Returns what a step takes beside the states.

    Args:
        name: `train.optimizer`.
        largest: Numbers of the largest parameter.
        total: Numbers of all.
        width: Bytes of each.
        on_cuda: Whether they are trained there.
    """
    if name == "adamw":
        return width * total if on_cuda else 2 * width * largest
    return 0 if on_cuda else (4 if width == 4 else 6) * 4 * largest
