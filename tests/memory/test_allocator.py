"""The allocator's model: nothing is lost, whatever the order of requests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcausal.memory.replay import MIB, CachingAllocator, rounded

SIZES = st.one_of(st.integers(0, 4096), st.integers(MIB - 600, MIB + 600), st.integers(1, 64 * MIB))


@given(st.booleans(), st.lists(st.tuples(SIZES, st.integers(0, 5)), max_size=60))
def test_no_byte_is_lost(expandable: bool, requests: list[tuple[int, int]]) -> None:
    allocator = CachingAllocator(expandable=expandable)
    live: dict[int, int] = {}
    for key, (size, choice) in enumerate(requests):
        allocator.allocate(key, size)
        live[key] = size
        if choice < 3 and live:
            victim = list(live)[choice * len(live) // 3]
            allocator.free(victim)
            del live[victim]
        assert allocator.allocated_bytes >= sum(map(rounded, live.values()))
        assert allocator.reserved_bytes == allocator.allocated_bytes + allocator.free_bytes()
    peak = allocator.peak_allocated_bytes
    for key in live:
        allocator.free(key)
    assert allocator.allocated_bytes == 0
    assert allocator.free_bytes() == allocator.reserved_bytes >= peak
    assert allocator.free_blocks() == allocator.segments  # everything has grown together again


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
