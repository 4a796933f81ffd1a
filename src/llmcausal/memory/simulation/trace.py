"""Allocations in order: repeated for more layers, and replayed in CUDA's allocator."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from llmcausal.memory.prediction import COMPONENTS, HeldTensors, Kernel, Moment

FIRST_LAYERS = 3
REAL_LAYERS = 7
"""Layers that `extended` needs: three, after which nothing touches the first layer's peculiarities,
the repeated one, and as many after it."""

_NEAR = 2

Label = tuple[str, int, int]
"""What begins, its count so far, and the layer."""


@dataclass
class Allocation:
    """A block of memory."""

    size: int  # in bytes
    component: str  # one of `COMPONENTS`
    what: str  # its origin
    phase: str
    host: bool = False  # whether it is in the host memory of a device
    pinned: bool = False  # whether that is pinned for copies


@dataclass
class Trace:
    """Blocks by number, and events: a number allocates its block, the complement (~n) frees it."""

    allocations: list[Allocation] = field(default_factory=list)
    events: list[int] = field(default_factory=list)
    # Where a layer begins something: index into `events`, and label.
    marks: list[tuple[int, Label]] = field(default_factory=list)
    # The kernels before the first mark, and after each.
    kernels: list[Counter[Kernel]] = field(default_factory=lambda: [Counter()])
    _visits: Counter[tuple[str, int]] = field(default_factory=Counter)

    def allocate(self, allocation: Allocation) -> int:
        """Adds a block and returns its number."""
        self.allocations.append(allocation)
        self.events.append(len(self.allocations) - 1)
        return len(self.allocations) - 1

    def free(self, number: int) -> None:
        self.events.append(~number)

    def mark(self, name: str, layer: int) -> None:
        """Marks that a layer begins something."""
        self._visits[name, layer] += 1
        self.marks.append((len(self.events), (name, self._visits[name, layer], layer)))
        self.kernels.append(Counter())

    def segments(self) -> Iterator[tuple[Label | None, list[int], Counter[Kernel]]]:
        """Yields the events and kernels between marks, with the mark before them."""
        starts = [index for index, _ in self.marks]
        labels: list[Label | None] = [None, *(label for _, label in self.marks)]
        stops = [*starts, len(self.events)]
        for label, start, stop, kernels in zip(
            labels, [0, *starts], stops, self.kernels, strict=True
        ):
            yield label, self.events[start:stop], kernels

    def changes(self) -> Iterator[tuple[int, Allocation, bool]]:
        """Yields each event's block, with its number before and whether it begins after it."""
        for event in self.events:
            number = event if event >= 0 else ~event
            yield number, self.allocations[number], event >= 0


def shallower(layers: int, kept: int) -> int:
    """Returns how many layers `extended` needs of a model whose last `kept` layers differ."""
    return min(layers - kept, REAL_LAYERS) + min(kept, REAL_LAYERS)


def extended(trace: Trace, layers: int, kept: int = 0) -> Trace | None:
    """Repeats the fourth of seven layers until there are `layers`.

    The last `kept` layers, which differ from the others, are repeated in the same way if they are
    more than seven. Blocks are matched by their place after a layer's mark: if a layer frees its
    neighbour's block, its copies free their neighbours'.

    Args:
        trace: A run with at most `REAL_LAYERS` layers of each kind, `shallower` in all.

    Returns:
        None if layers of a kind differ, so that they say nothing about more layers.
    """
    first, last = min(layers - kept, REAL_LAYERS), min(kept, REAL_LAYERS)
    more = {
        FIRST_LAYERS: layers - kept - first,
        first + FIRST_LAYERS: kept - last,
    }
    added = {layer: count for layer, count in more.items() if count}
    return _Extension(trace, added, first + last - 1).run()


class _Extension:
    """Repeats layers: `added` has the copies of a layer by its number, `last` is the last one."""

    def __init__(self, trace: Trace, added: dict[int, int], last: int) -> None:
        self.trace = trace
        self.added = added
        self.ends = (0, last)
        self.result = Trace()
        self.places: dict[int, tuple[Label | None, int]] = {}
        self.numbers: dict[tuple[Label | None, int], int] = {}
        self.lost = False

    def run(self) -> Trace | None:
        before = -1
        for layer, group in groupby(self.trace.segments(), key=lambda each: _layer(each[0])):
            segments = list(group)
            copies = self._copies(layer)
            for copy in copies if before < layer else copies[::-1]:
                for label, events, kernels in segments:
                    self._play(label, events, copy)
                    self.result.kernels[0] += kernels
            before = layer
        return None if self.lost else self.result

    def _copies(self, layer: int) -> list[int]:
        """Returns the numbers in the longer model that a layer stands for."""
        first = layer + sum(more for each, more in self.added.items() if each < layer)
        return list(range(first, first + self.added.get(layer, 0) + 1))

    def _play(self, label: Label | None, events: list[int], layer: int) -> None:
        count = 0
        for event in events:
            if event >= 0:
                place = (label, count)
                self.places.setdefault(event, place)
                count += 1
                made = replace(self.trace.allocations[event])
                self.numbers[_moved(label, layer), place[1]] = self.result.allocate(made)
            else:
                self._free(label, layer, *self.places[~event])

    def _free(self, label: Label | None, layer: int, owner: Label | None, index: int) -> None:
        real, owned = _layer(label), _layer(owner)
        if real not in self.ends and owned >= 0 and abs(real - owned) <= _NEAR:
            wanted = [layer + owned - real]
        else:
            wanted = self._copies(owned)
        found = [self.numbers.pop((_moved(owner, each), index), None) for each in wanted]
        alive = [number for number in found if number is not None]
        self.lost |= not alive
        for number in alive:
            self.result.free(number)


def _layer(label: Label | None) -> int:
    return -1 if label is None else label[2]


def _moved(label: Label | None, layer: int) -> Label | None:
    return None if label is None else (label[0], label[1], layer)


MIB = 2**20
ROUNDING = 512
SMALL_LIMIT = MIB
SMALL_SEGMENT = 2 * MIB
LARGE_LIMIT = 10 * MIB
LARGE_SEGMENT = 20 * MIB
LARGE_ROUNDING = 2 * MIB


def rounded(size: int) -> int:
    return max(ROUNDING, -(-size // ROUNDING) * ROUNDING)


@dataclass(eq=False)
class _Block:
    """A part of a segment, with its neighbours there."""

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
    """A model of PyTorch's caching allocator for CUDA, on one stream.

    Follows c10/cuda/CUDACachingAllocator.cpp. Sizes are rounded to 512 bytes. Requests up to 1 MiB
    use segments of 2 MiB, up to 10 MiB segments of 20 MiB, larger ones their own size rounded to
    2 MiB. A request splits the smallest free block that is large enough. A full device would first
    return cached segments; here the device is never full.

    Args:
        expandable: `PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True`: small and large requests
            have one segment each, which grows at its end.
    """

    def __init__(self, *, expandable: bool = False) -> None:
        self.expandable = expandable
        self.allocated_bytes = 0  # in use, rounding included
        self.reserved_bytes = 0  # taken from the device
        self.segments = 0
        # (size, segment, address) of free blocks, sorted, by whether their segment is for small
        # requests.
        self.free_blocks: dict[bool, list[tuple[int, int, int]]] = {True: [], False: []}
        self._blocks: dict[tuple[int, int], _Block] = {}
        self._live: dict[Hashable, _Block] = {}
        self._last: dict[bool, _Block] = {}

    def allocate(self, key: Hashable, size: int) -> None:
        """Serves a request, known as `key` until `free`; a `ValueError` if `key` is in use."""
        if key in self._live:
            raise ValueError(f"{key!r} is allocated already")
        size = rounded(size)
        small = size <= SMALL_LIMIT
        block = self._best_fit(size, small) or self._reserve(size, small)
        self._split(block, size)
        block.free = False
        self._live[key] = block
        self.allocated_bytes += block.size

    def free(self, key: Hashable) -> None:
        """Frees a request's block; raises a `KeyError` if there is none."""
        block = self._live.pop(key)
        self.allocated_bytes -= block.size
        block.free = True
        for neighbour in (block.before, block.after):
            if neighbour is not None and neighbour.free:
                self._forget(neighbour)
                block = self._joined(*sorted((block, neighbour), key=lambda each: each.address))
        insort(self.free_blocks[block.small], block.key)

    def _best_fit(self, size: int, small: bool) -> _Block | None:
        free = self.free_blocks[small]
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
            self.segments += 1
            block = _Block(self.segments, 0, length, small)
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
        insort(self.free_blocks[tail.small], tail.key)

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

    def _forget(self, block: _Block) -> None:
        free = self.free_blocks[block.small]
        free.pop(bisect_left(free, block.key))


MOMENTS = 240


def replay(trace: Trace, *, caching: bool) -> dict[str, Any]:
    """Returns a `Prediction`'s fields of bytes and peak; a `caching` allocator rounds sizes."""
    sizes = [rounded(each.size) if caching else each.size for each in trace.allocations]
    moments, peak_index = _moments(trace, sizes)
    peak = moments[peak_index]
    groups: Counter[tuple[str, str]] = Counter()
    counts: Counter[tuple[str, str]] = Counter()
    for number in _held_at(trace, peak_index):
        key = (trace.allocations[number].component, trace.allocations[number].what)
        groups[key] += sizes[number]
        counts[key] += 1
    total = sum(peak.allocated_bytes.values())
    return {
        "components": peak.allocated_bytes,
        "allocated_bytes": total,
        "reserved_bytes": _reserved(trace, expandable=False) if caching else total,
        "reserved_expandable_bytes": _reserved(trace, expandable=True) if caching else total,
        "host_bytes": _host_bytes(trace),
        "peak_phase": peak.phase,
        "peak_tensors": tuple(
            HeldTensors(component, what, counts[component, what], size)
            for (component, what), size in groups.most_common()
        ),
        "timeline": tuple(moments.values()),
        "kernels": tuple(sum(trace.kernels, Counter()).items()),
    }


def _moments(trace: Trace, sizes: list[int]) -> tuple[dict[int, Moment], int]:
    """Returns evenly spaced moments and the peak's, by event, and the peak's event."""
    every = max(1, len(trace.events) // MOMENTS)
    now = dict.fromkeys(COMPONENTS, 0)
    total, peak, peak_index = 0, 0, 0
    phase = "weights"
    moments: dict[int, Moment] = {}
    for index, (number, allocation, begins) in enumerate(trace.changes()):
        if begins:
            phase = allocation.phase
        if not allocation.host:
            change = sizes[number] if begins else -sizes[number]
            now[allocation.component] += change
            total += change
        if total > peak or index % every == 0:
            moments[index] = Moment(phase, dict(now))
        if total > peak:
            if peak_index % every:
                del moments[peak_index]
            peak, peak_index = total, index
    return moments, peak_index


def _host_bytes(trace: Trace) -> int:
    """Returns the host memory's peak.

    torch rounds each pinned block up to a power of two and keeps it for later blocks of that size,
    so each size counts with its own peak.
    """
    now: Counter[int] = Counter()
    peak: Counter[int] = Counter()
    for _, allocation, begins in trace.changes():
        if not allocation.host:
            continue
        size = allocation.size
        if allocation.pinned:
            size = kind = 1 << (size - 1).bit_length()
        else:
            kind = 0
        now[kind] += size if begins else -size
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


def _reserved(trace: Trace, *, expandable: bool) -> int:
    allocator = CachingAllocator(expandable=expandable)
    for number, allocation, begins in trace.changes():
        if allocation.host:
            continue
        if begins:
            allocator.allocate(number, allocation.size)
        else:
            allocator.free(number)
    return allocator.reserved_bytes
