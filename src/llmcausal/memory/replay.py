"""From a trace to figures: peaks, who holds them, and how it went over time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from llmcausal.memory.allocator import CachingAllocator, rounded
from llmcausal.memory.prediction import COMPONENTS, HeldTensors, Moment
from llmcausal.memory.trace import Trace

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
