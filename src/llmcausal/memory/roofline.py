"""A step's predicted time: its kernels' FLOPs, bytes and launches at a device's rates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from pydantic import Field

from llmcausal.data_files import DataFile, read_table
from llmcausal.memory.prediction import Kernel

Kernels = Iterable[tuple[Kernel, int]]
"""Kernels with their counts."""


@dataclass(frozen=True)
class Rates:
    """What a device does in a second, and how long it takes to start a kernel, in seconds."""

    flops: float
    bytes: float
    crossing_bytes: float
    launch: float


def serial_seconds(kernels: Kernels, rates: Rates) -> float:
    """Returns the time of a device that starts a kernel when the last one has ended: a CPU.

    Each kernel takes as long as the slower of its products and its memory traffic (Williams,
    Waterman and Patterson 2009, "Roofline").
    """
    return sum(count * (_seconds(kernel, rates) + rates.launch) for kernel, count in kernels)


def queued_seconds(kernels: Kernels, rates: Rates) -> float:
    """Returns the time of a device whose host starts kernels in advance: a GPU.

    Device, host and PCIe work at the same time; the slowest decides.
    """
    device = launches = crossing = 0.0
    for kernel, count in kernels:
        launches += count * rates.launch
        if kernel.crosses:
            crossing += count * _seconds(kernel, rates)
        else:
            device += count * _seconds(kernel, rates)
    return max(device, launches, crossing)


def _seconds(kernel: Kernel, rates: Rates) -> float:
    moved = kernel.bytes / (rates.crossing_bytes if kernel.crosses else rates.bytes)
    return max(kernel.flops / rates.flops, moved)


class Card(DataFile):
    """A GPU's peak rates, from its maker; `reported` has its names in torch."""

    name: str
    reported: tuple[str, ...]
    tensor_tflops: float = Field(gt=0)
    memory_gbps: float = Field(gt=0)
    pcie_gbps: float = Field(gt=0)
    source: str

    def rates(self, share: float, launch: float) -> Rates:
        """Returns a share of the peak rates."""
        return Rates(
            share * self.tensor_tflops * 1e12,
            share * self.memory_gbps * 1e9,
            share * self.pcie_gbps * 1e9,
            launch,
        )


class _Cards(DataFile):
    card: tuple[Card, ...]


@cache
def known_cards() -> tuple[Card, ...]:
    return read_table(files("llmcausal.memory").joinpath("cards.toml"), _Cards).card


def card_here() -> Card | None:
    """Returns this machine's GPU, if it is a known card."""
    import torch

    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((card for card in known_cards() if name in card.reported), None)


FAST, SLOW = (1.0, 5e-6), (0.5, 15e-6)
"""The share of a card's peak rates, and the seconds that PyTorch takes to start a kernel, at both
ends of a prediction's range. Assumptions: no GPU was measured."""


def card_seconds(kernels: Kernels, card: Card) -> tuple[float, float]:
    """Returns the least time that a card may take, and a cautious one.

    The least has the peak rates. The cautious one has half of them, with every kernel after its
    launch and every crossing waited for.
    """
    kernels = tuple(kernels)
    return queued_seconds(kernels, card.rates(*FAST)), serial_seconds(kernels, card.rates(*SLOW))
