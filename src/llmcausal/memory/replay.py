"""Replays a trace, with CUDA's caching allocator or without it.

A model of PyTorch's caching allocator for CUDA, on one stream.

Follows c10/cuda/CUDACachingAllocator.cpp: sizes are rounded to 512 bytes; up to 1 MiB comes from
segments of 2 MiB, up to 10 MiB from segments of 20 MiB, more from segments of its own size rounded
to 2 MiB; the smallest free block that is large enough is taken, and split. When the device is full,
cached segments would be returned first; here the device is never full.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass

from llmcausal.memory.prediction import COMPONENTS, HeldTensors, Moment
from llmcausal.memory.trace import Trace

MIB = 2**20
ROUNDING = 512
SMALL_LIMIT = MIB
SMALL_SEGMENT = 2 * MIB
LARGE_LIMIT = 10 * MIB
LARGE_SEGMENT = 20 * MIB
LARGE_ROUNDING = 2 * MIB


def rounded(size: int) -> int:
    """Returns the bytes that a request of `size` bytes takes."""
    return max(ROUNDING, -(-size // ROUNDING) * ROUNDING)


@dataclass(eq=False)
class _Block:
    """A part of a segment; `before` and `after` are its neighbours there."""

    segment: int
    address: int
    size: int
    small: bool
    free: bool = True
    before: _Block | None = None
    after: _Block | None = None

    @property
    def key(self) -> tuple[int, int, int]:
        return self.size, self.segment, self.address


class CachingAllocator:
    """Replays requests, and counts what is allocated and what is reserved.

    Args:
        expandable: As with `PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True`: one segment for
            small and one for large requests, which grow at their end.

    Attributes:
        allocated_bytes: In use now, rounding included.
        reserved_bytes: Taken from the device.
        peak_allocated_bytes: Most of `allocated_bytes`.
    """

    def __init__(self, *, expandable: bool = False) -> None:
        self.expandable = expandable
        self.allocated_bytes = 0
        self.reserved_bytes = 0
        self.peak_allocated_bytes = 0
        self._free: dict[bool, list[tuple[int, int, int]]] = {True: [], False: []}
        self._blocks: dict[tuple[int, int], _Block] = {}
        self._live: dict[Hashable, _Block] = {}
        self._last: dict[bool, _Block] = {}
        self._segments = 0

    def allocate(self, key: Hashable, size: int) -> None:
        """Serves a request of `size` bytes, known as `key` until it is freed.

        Raises:
            ValueError: If `key` is in use.
        """
        if key in self._live:
            raise ValueError(f"{key!r} is allocated already")
        size = rounded(size)
        small = size <= SMALL_LIMIT
        block = self._best_fit(size, small) or self._reserve(size, small)
        self._split(block, size)
        block.free = False
        self._live[key] = block
        self.allocated_bytes += block.size
        self.peak_allocated_bytes = max(self.peak_allocated_bytes, self.allocated_bytes)

    def free(self, key: Hashable) -> None:
        """Takes a request back.

        Raises:
            KeyError: If `key` is not in use.
        """
        block = self._live.pop(key)
        self.allocated_bytes -= block.size
        block.free = True
        for neighbour in (block.before, block.after):
            if neighbour is not None and neighbour.free:
                self._forget(neighbour)
                block = self._joined(*sorted((block, neighbour), key=lambda each: each.address))
        self._keep(block)

    def free_bytes(self) -> int:
        """Returns the bytes reserved and not in use."""
        return sum(size for free in self._free.values() for size, _, _ in free)

    def free_blocks(self) -> int:
        """Returns in how many pieces they lie."""
        return sum(len(free) for free in self._free.values())

    @property
    def segments(self) -> int:
        """How many segments were taken from the device."""
        return self._segments

    def _best_fit(self, size: int, small: bool) -> _Block | None:
        free = self._free[small]
        index = bisect_left(free, (size, -1, -1))
        if index == len(free):
            return None
        _, segment, address = free.pop(index)
        return self._blocks[segment, address]

    def _reserve(self, size: int, small: bool) -> _Block:
        if self.expandable:
            return self._expand(size, small)
        if small:
            length = SMALL_SEGMENT
        elif size < LARGE_LIMIT:
            length = LARGE_SEGMENT
        else:
            length = -(-size // LARGE_ROUNDING) * LARGE_ROUNDING
        return self._append(length, small, None)

    def _expand(self, size: int, small: bool) -> _Block:
        last = self._last.get(small)
        spare = last.size if last is not None and last.free else 0
        page = SMALL_SEGMENT if small else LARGE_SEGMENT
        length = -(-(size - spare) // page) * page
        grown = self._append(length, small, last)
        if last is not None and spare:
            self._forget(last)
            grown = self._joined(last, grown)
        return grown

    def _append(self, length: int, small: bool, after: _Block | None) -> _Block:
        self.reserved_bytes += length
        if after is None:
            self._segments += 1
            block = _Block(self._segments, 0, length, small)
        else:
            block = _Block(after.segment, after.address + after.size, length, small, before=after)
            after.after = block
        self._blocks[block.segment, block.address] = block
        self._last[small] = block
        return block

    def _split(self, block: _Block, size: int) -> None:
        rest = block.size - size
        worth = rest >= ROUNDING if block.small or self.expandable else rest > SMALL_LIMIT
        if not worth:
            return
        tail = _Block(block.segment, block.address + size, rest, block.small)
        tail.before, tail.after = block, block.after
        if tail.after is not None:
            tail.after.before = tail
        block.after, block.size = tail, size
        self._blocks[tail.segment, tail.address] = tail
        if self._last[block.small] is block:
            self._last[block.small] = tail
        self._keep(tail)

    def _joined(self, first: _Block, second: _Block) -> _Block:
        del self._blocks[second.segment, second.address]
        first.size += second.size
        first.after = second.after
        if first.after is not None:
            first.after.before = first
        if self._last[second.small] is second:
            self._last[second.small] = first
        first.free = True
        return first

    def _keep(self, block: _Block) -> None:
        insort(self._free[block.small], block.key)

    def _forget(self, block: _Block) -> None:
        free = self._free[block.small]
        free.pop(bisect_left(free, block.key))


MOMENTS = 240


@dataclass(frozen=True)
class Replay:
    """What a trace comes to.

    Attributes:
        components: Bytes on the device at the peak, by component.
        allocated_bytes: Their sum.
        reserved_bytes: Peak that the caching allocator takes; on a CPU as `allocated_bytes`.
        reserved_expandable_bytes: The same with expandable segments.
        host_bytes: Peak on the host.
        peak_phase: Phase of the peak.
        peak_tensors: What holds it, largest first.
        timeline: Moments in order, the peak among them.
    """

    components: dict[str, int]
    allocated_bytes: int
    reserved_bytes: int
    reserved_expandable_bytes: int
    host_bytes: int
    peak_phase: str
    peak_tensors: tuple[HeldTensors, ...]
    timeline: tuple[Moment, ...]


def replay(trace: Trace, *, caching: bool) -> Replay:
    """Goes through a trace.

    Args:
        trace: Of a step.
        caching: Whether the device has the caching allocator, which rounds sizes.
    """
    sizes = [rounded(each.size) if caching else each.size for each in trace.allocations]
    peak_index = _peak(trace, sizes)
    held = _held_at(trace, peak_index)
    components = dict.fromkeys(COMPONENTS, 0)
    groups: Counter[tuple[str, str]] = Counter()
    counts: Counter[tuple[str, str]] = Counter()
    for number in held:
        allocation = trace.allocations[number]
        key = (allocation.component, allocation.what)
        components[allocation.component] += sizes[number]
        groups[key] += sizes[number]
        counts[key] += 1
    reserved = [_reserved(trace, expandable) for expandable in (False, True)] if caching else []
    total = sum(components.values())
    return Replay(
        components=components,
        allocated_bytes=total,
        reserved_bytes=reserved[0] if reserved else total,
        reserved_expandable_bytes=reserved[1] if reserved else total,
        host_bytes=_host_bytes(trace),
        peak_phase=_phase_at(trace, peak_index),
        peak_tensors=tuple(
            HeldTensors(component, what, counts[component, what], size)
            for (component, what), size in groups.most_common()
        ),
        timeline=_timeline(trace, sizes, peak_index),
    )


def _peak(trace: Trace, sizes: list[int]) -> int:
    """Returns the event at which the device's peak is reached."""
    now, peak, at = 0, 0, 0
    for index, event in enumerate(trace.events):
        number = event if event >= 0 else ~event
        if trace.allocations[number].host:
            continue
        now += sizes[number] if event >= 0 else -sizes[number]
        if now > peak:
            peak, at = now, index
    return at


def _host_bytes(trace: Trace) -> int:
    """Returns what the host gives at most.

    torch rounds each pinned block up to a power of two, and keeps it for others of that size: so
    each size counts with its own peak.
    """
    now: Counter[int] = Counter()
    peak: Counter[int] = Counter()
    for event in trace.events:
        allocation = trace.allocations[event if event >= 0 else ~event]
        if not allocation.host:
            continue
        size = allocation.size
        if allocation.pinned:
            size = kind = 1 << (size - 1).bit_length()
        else:
            kind = 0
        now[kind] += size if event >= 0 else -size
        peak[kind] = max(peak[kind], now[kind])
    return peak.total()


def _held_at(trace: Trace, index: int) -> list[int]:
    held: dict[int, None] = {}
    for event in trace.events[: index + 1]:
        if event >= 0:
            held[event] = None
        else:
            del held[~event]
    return [number for number in held if not trace.allocations[number].host]


def _phase_at(trace: Trace, index: int) -> str:
    made = (event for event in trace.events[index::-1] if event >= 0)
    number = next((event for event in made), None)
    return "weights" if number is None else trace.allocations[number].phase


def _reserved(trace: Trace, expandable: bool) -> int:
    allocator = CachingAllocator(expandable=expandable)
    for event in trace.events:
        allocation = trace.allocations[event if event >= 0 else ~event]
        if allocation.host:
            continue
        if event >= 0:
            allocator.allocate(event, allocation.size)
        else:
            allocator.free(~event)
    return allocator.reserved_bytes


def _timeline(trace: Trace, sizes: list[int], peak_index: int) -> tuple[Moment, ...]:
    every = max(1, len(trace.events) // MOMENTS)
    now = dict.fromkeys(COMPONENTS, 0)
    phase = "weights"
    moments = []
    for index, event in enumerate(trace.events):
        number = event if event >= 0 else ~event
        allocation = trace.allocations[number]
        if event >= 0:
            phase = allocation.phase
        if not allocation.host:
            now[allocation.component] += sizes[number] if event >= 0 else -sizes[number]
        if index % every == 0 or index == peak_index:
            moments.append(Moment(phase, dict(now)))
    return tuple(moments)
