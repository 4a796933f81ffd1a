"""What FSDP2 takes of a step where processes share the layers: shares, and layers gathered.

Read in the source of torch 2.13 (`_fsdp_param_group.py`: `unshard`, `wait_for_unshard`,
`pre_backward`; `_fsdp_collectives.py`): a layer arrives in one buffer and is copied out of it into
its parameters. Going forward, the buffer stays until the next layer's has arrived; in the backward
pass the next layer's is fetched ahead, and a layer goes when the one below it begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from llmcausal.memory.trace import Allocation
from llmcausal.memory.tracker import AllocationTracker
from llmcausal.model.sharding import use_plain_parameters


class FakeShards:
    """Makes a fake model's frozen layers shares in the trace, and notes what is gathered of them.

    Args:
        layers: The decoder's, materialized; changed in place.
        shards: Processes that share them.
        device: Where they are.
        tracker: Told; the layers' marks are to come before `watch`.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        shards: int,
        device: torch.device,
        tracker: AllocationTracker,
    ) -> None:
        self._tracker = tracker
        self._layers = layers
        self._sizes: list[list[int]] = []
        self._arrived: dict[int, int] = {}
        self._gathered: dict[int, list[int]] = {}
        for layer in layers:
            use_plain_parameters(layer, device)
            frozen = [each for each in layer.parameters() if not each.requires_grad]
            shares = [-(-len(each) // shards) * each[:1].nbytes for each in frozen]
            for parameter, share in zip(frozen, shares, strict=True):
                tracker.resize(parameter, share)
            self._sizes.append([share * shards for share in shares])

    def watch(self, decoder: nn.Module) -> None:
        """Notes from here on what each pass gathers."""
        for number, layer in enumerate(self._layers):

            def entered(_module: nn.Module, _inputs: Any, number: int = number) -> None:
                if not self._recomputing:
                    self._arrive(number)
                    self._let_arrived_go(number - 1)
                    self._gather(number)

            def left(_module: nn.Module, _inputs: Any, output: Any, number: int = number) -> None:
                if self._recomputing:
                    return
                self._let_go(number)
                hidden = output if isinstance(output, Tensor) else output[0]
                if hidden.requires_grad:
                    hidden.register_hook(lambda _: self._backward(number))

            layer.register_forward_pre_hook(entered)
            layer.register_forward_hook(left)
        decoder.register_forward_hook(lambda *_: self._let_arrived_go(len(self._layers) - 1))

    def end(self) -> None:
        """Lets the first layer go, whose input has no gradient: it stays to the end."""
        self._let_go(0)

    @property
    def _recomputing(self) -> bool:
        return self._tracker.phase == "backward"

    def _backward(self, number: int) -> None:
        self._let_go(number + 1)
        self._arrive(number)
        self._gather(number)
        self._let_arrived_go(number)
        if number:
            self._arrive(number - 1)

    def _arrive(self, number: int) -> None:
        if number not in self._arrived:
            size = sum(self._sizes[number])
            self._arrived[number] = self._allocate(size, "a layer on its way")

    def _let_arrived_go(self, number: int) -> None:
        if number in self._arrived:
            self._tracker.trace.free(self._arrived.pop(number))

    def _gather(self, number: int) -> None:
        sizes = self._sizes[number]
        self._gathered[number] = [self._allocate(size, "a gathered layer") for size in sizes]

    def _let_go(self, number: int) -> None:
        for block in self._gathered.pop(number, ()):
            self._tracker.trace.free(block)

    def _allocate(self, size: int, what: str) -> int:
        return self._tracker.trace.allocate(
            Allocation(size, "base_model", what, self._tracker.phase)
        )
