"""Repeating a layer in a trace, counting what a trace holds, and the allocator's model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcausal.memory.prediction import COMPONENTS
from llmcausal.memory.simulation.trace import (
    FIRST_LAYERS,
    MIB,
    REAL_LAYERS,
    Allocation,
    CachingAllocator,
    Trace,
    extended,
    replay,
    rounded,
)


def traced(layers: int, *, odd: int | None = None) -> Trace:
    """A forward and a backward pass: each layer keeps its output until its backward pass is done,
    its gradient until the end, and takes something while it runs."""
    trace = Trace()

    def make(size: int, component: str, phase: str) -> int:
        return trace.allocate(Allocation(size, component, "test", phase))

    for layer in range(layers):
        trace.mark("weights", layer)
        make(5000, "base_model", "weights")
    kept, gradients = [make(700, "activations", "forward")], []
    for layer in range(layers):
        trace.mark("forward", layer)
        while_running = make(9000 if layer != odd else 100, "activations", "forward")
        kept.append(make(1000, "activations", "forward"))
        trace.free(while_running)
        if layer == odd:
            trace.free(kept.pop(-2))
    loss = make(3000, "logits", "loss")
    for layer in range(layers)[::-1]:
        trace.mark("backward", layer)
        while_running = make(12000, "activations", "backward")
        if len(kept) > 1:
            trace.free(kept.pop())
        gradients.append(make(200, "gradients", "backward"))
        trace.free(while_running)
    trace.free(loss)
    for gradient in gradients:
        trace.free(gradient)
    return trace


def test_more_layers_are_as_if_they_had_been_run() -> None:
    for layers in (REAL_LAYERS, 8, 20):
        longer, real = extended(traced(REAL_LAYERS), layers), traced(layers)
        assert longer is not None
        assert longer.allocations == real.allocations
        assert replay(longer, caching=True) == replay(real, caching=True)


def test_layers_that_differ_are_not_repeated() -> None:
    assert extended(traced(REAL_LAYERS, odd=FIRST_LAYERS), 12) is None


def test_components_add_up_and_the_peak_is_in_the_timeline() -> None:
    result = replay(traced(8), caching=False)
    assert tuple(result["components"]) == COMPONENTS
    # Eight layers' weights and outputs, the input, the loss, and what the last layer takes.
    assert result["allocated_bytes"] == 8 * 5000 + 8 * 1000 + 700 + 3000 + 12000
    assert result["peak_phase"] == "backward"
    sums = [sum(moment.allocated_bytes.values()) for moment in result["timeline"]]
    assert max(sums) == result["allocated_bytes"] == sum(result["components"].values())
    assert sum(each.bytes for each in result["peak_tensors"]) == result["allocated_bytes"]


def test_pinned_blocks_are_powers_of_two_and_serve_their_own_size_again() -> None:
    trace = Trace()

    def make(size: int, *, pinned: bool) -> int:
        return trace.allocate(Allocation(size, "misc", "test", "forward", host=True, pinned=pinned))

    make(1002, pinned=True)  # 1024
    first = make(513, pinned=True)  # 1024 of a second block of this size
    make(700, pinned=False)
    trace.free(first)
    make(600, pinned=True)  # takes the block that was freed
    make(512, pinned=True)  # 512, which the larger block does not serve
    result = replay(trace, caching=True)
    assert result["host_bytes"] == 2 * 1024 + 512 + 700
    assert result["allocated_bytes"] == 0


SIZES = st.one_of(st.integers(0, 4096), st.integers(MIB - 600, MIB + 600), st.integers(1, 64 * MIB))


def free_bytes(allocator: CachingAllocator) -> int:
    return sum(size for free in allocator.free_blocks.values() for size, _, _ in free)


@given(st.booleans(), st.lists(st.tuples(SIZES, st.integers(0, 5)), max_size=60))
def test_no_byte_is_lost(expandable: bool, requests: list[tuple[int, int]]) -> None:
    allocator = CachingAllocator(expandable=expandable)
    live: dict[int, int] = {}
    peak = 0
    for key, (size, choice) in enumerate(requests):
        allocator.allocate(key, size)
        live[key] = size
        peak = max(peak, allocator.allocated_bytes)
        if choice < 3 and live:
            victim = list(live)[choice * len(live) // 3]
            allocator.free(victim)
            del live[victim]
        assert allocator.allocated_bytes >= sum(map(rounded, live.values()))
        assert allocator.reserved_bytes == allocator.allocated_bytes + free_bytes(allocator)
    for key in live:
        allocator.free(key)
    assert allocator.allocated_bytes == 0
    assert free_bytes(allocator) == allocator.reserved_bytes >= peak
    pieces = sum(map(len, allocator.free_blocks.values()))
    assert pieces == allocator.segments  # everything has grown together again


@pytest.mark.parametrize(
    ("size", "reserved"),
    [
        (1, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 1, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB),
        (11 * MIB, 12 * MIB),
    ],
)
def test_segments_are_those_of_cuda(size: int, reserved: int) -> None:
    allocator = CachingAllocator()
    allocator.allocate("a", size)
    assert allocator.reserved_bytes == reserved


def test_the_smallest_block_that_fits_is_taken() -> None:
    allocator = CachingAllocator()
    for key, size in (("a", 30), ("b", 40), ("c", 50)):
        allocator.allocate(key, size * MIB)
        allocator.free(key) if key == "a" else None
    allocator.free("b")
    allocator.allocate("d", 28 * MIB)  # out of a's segment, so that b's stays whole
    allocator.allocate("e", 40 * MIB)
    assert allocator.reserved_bytes == 120 * MIB + 0


def test_a_remainder_of_a_large_block_is_kept_whole_when_it_is_small() -> None:
    allocator = CachingAllocator()
    allocator.allocate("a", 12 * MIB - 700 * 1024)
    assert allocator.allocated_bytes == 12 * MIB
    expandable = CachingAllocator(expandable=True)
    expandable.allocate("a", 12 * MIB - 700 * 1024)
    assert expandable.allocated_bytes == 12 * MIB - 700 * 1024


def test_expandable_segments_fragment_less() -> None:
    reserved = {}
    for expandable in (False, True):
        allocator = CachingAllocator(expandable=expandable)
        for size in range(20, 60, 4):  # each a little larger than what was freed before it
            allocator.allocate(size, size * MIB)
            allocator.free(size)
        reserved[expandable] = allocator.reserved_bytes
    assert reserved[True] <= 60 * MIB < reserved[False]


def test_keys_are_checked() -> None:
    allocator = CachingAllocator()
    allocator.allocate("a", 1)
    with pytest.raises(ValueError, match="already"):
        allocator.allocate("a", 1)
    with pytest.raises(KeyError):
        allocator.free("b")
