"""Host memory for what the device has no room for; all that is special about CUDA is here."""

from __future__ import annotations

import logging
from functools import cache

import torch
from torch import Tensor

_log = logging.getLogger(__name__)


def empty_on_host(like: Tensor, device: torch.device) -> Tensor:
    """Returns host memory of a tensor's shape and dtype: for CUDA pinned, where that works.

    Args:
        like: What is to be copied into it.
        device: The device that it is copied from or to.
    """
    if device.type == "cuda":
        try:
            return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)
        except RuntimeError:  # WSL and containers limit pinned memory
            _tell_unpinned()
    return torch.empty(like.shape, dtype=like.dtype, device="cpu")


@cache
def _tell_unpinned() -> None:
    _log.warning("host memory cannot be pinned (any more): copies wait for one another")


class Copier:
    """Copies tensors between the device and host memory, one at a time and at once."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def to_host(self, tensor: Tensor) -> Tensor:
        """Begins a copy to the host; keep `tensor` until the next `wait`."""
        return tensor.detach().to("cpu", copy=True)

    def to_device(self, host: Tensor) -> Tensor:
        """Begins a copy to the device; use it after the next `wait`."""
        return host.to(self.device)

    def wait(self) -> None:
        """Orders whatever the device computes from now on after the copies begun."""


class CudaCopier(Copier):
    """Copies on a stream of its own, beside the computation.

    Memory comes from the computation's stream and is let go after `wait`, so that the allocator
    may use it again at once, however far the host runs ahead.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.stream = torch.cuda.Stream(device)

    def to_host(self, tensor: Tensor) -> Tensor:
        return self._copied(tensor.detach(), empty_on_host(tensor, self.device))

    def to_device(self, host: Tensor) -> Tensor:
        return self._copied(host, torch.empty_like(host, device=self.device))

    def wait(self) -> None:
        torch.cuda.current_stream(self.device).wait_stream(self.stream)

    def _copied(self, source: Tensor, target: Tensor) -> Tensor:
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            return target.copy_(source, non_blocking=True)


def copier_for(device: torch.device) -> Copier:
    return CudaCopier(device) if device.type == "cuda" else Copier(device)
