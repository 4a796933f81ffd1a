"""What was allocated and freed, in order; and the same for a model of more layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby

FIRST_LAYERS = 3
REAL_LAYERS = 7
"""Layers to run so that `extended` may add more: the one that is repeated after the first three,
which do not touch what the first layer does otherwise, and as many after it."""

_NEAR = 2

Label = tuple[str, int, int]
"""What began, for the how-manieth time, in which layer."""


@dataclass
class Allocation:
    """A block of memory.

    Attributes:
        size: Bytes asked for.
        component: What it is for, one of `COMPONENTS`.
        what: What made it.
        phase: When.
        host: Whether it is in host memory beside a device.
        pinned: Whether that is pinned for copies.
    """

    size: int
    component: str
    what: str
    phase: str
    host: bool = False
    pinned: bool = False


@dataclass
class Trace:
    """Blocks by number, and events: a number is its allocation, its complement (~n) the end.

    Attributes:
        allocations: By number.
        events: In order.
        marks: Where a layer began something: index into `events`, and what.
    """

    allocations: list[Allocation] = field(default_factory=list)
    events: list[int] = field(default_factory=list)
    marks: list[tuple[int, Label]] = field(default_factory=list)
    _visits: dict[tuple[str, int], int] = field(default_factory=dict)

    def allocate(self, allocation: Allocation) -> int:
        """Notes a new block; returns its number."""
        self.allocations.append(allocation)
        self.events.append(len(self.allocations) - 1)
        return len(self.allocations) - 1

    def free(self, number: int) -> None:
        """Notes a block's end."""
        self.events.append(~number)

    def mark(self, name: str, layer: int) -> None:
        """Notes that a layer begins something."""
        visit = self._visits[name, layer] = self._visits.get((name, layer), 0) + 1
        self.marks.append((len(self.events), (name, visit, layer)))

    def segments(self) -> Iterator[tuple[Label | None, list[int]]]:
        """Yields the events between marks, with the mark that they follow."""
        starts = [index for index, _ in self.marks]
        labels: list[Label | None] = [None, *(label for _, label in self.marks)]
        bounds = zip([0, *starts], [*starts, len(self.events)], strict=True)
        for label, (start, stop) in zip(labels, bounds, strict=True):
            yield label, self.events[start:stop]


def extended(trace: Trace, layers: int) -> Trace | None:
    """Repeats what the fourth of seven layers did, so that there are `layers`.

    Blocks are matched by their place after a layer's mark: what a layer frees of its neighbours
    is freed by its copies of theirs.

    Args:
        trace: Of a run of `REAL_LAYERS` equal layers.
        layers: At least `REAL_LAYERS`.

    Returns:
        None if the layers did not do the same, so that nothing can be said of more of them.
    """
    return _Extension(trace, layers).run()


class _Extension:
    def __init__(self, trace: Trace, layers: int) -> None:
        self.trace = trace
        self.added = layers - REAL_LAYERS
        self.result = Trace()
        self.places: dict[int, tuple[Label | None, int]] = {}
        self.numbers: dict[tuple[Label | None, int], int] = {}
        self.lost = False

    def run(self) -> Trace | None:
        before = -1
        for layer, group in groupby(self.trace.segments(), key=lambda each: _layer(each[0])):
            segments = list(group)
            copies = [self._after(layer)]
            if layer == FIRST_LAYERS:
                copies = list(range(FIRST_LAYERS, FIRST_LAYERS + self.added + 1))
                copies = copies if before < layer else copies[::-1]
            for copy in copies:
                for label, events in segments:
                    self._play(label, events, copy)
            before = layer
        return None if self.lost else self.result

    def _after(self, layer: int) -> int:
        """Number that a real layer has in the longer model."""
        return layer + self.added if layer > FIRST_LAYERS else layer

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
        ends = (0, REAL_LAYERS - 1)
        if real not in ends and owned >= 0 and abs(real - owned) <= _NEAR:
            wanted = [layer + owned - real]
        elif owned == FIRST_LAYERS:  # what is left of it in every copy
            wanted = list(range(FIRST_LAYERS, FIRST_LAYERS + self.added + 1))
        else:
            wanted = [self._after(owned)]
        found = [self.numbers.pop((_moved(owner, each), index), None) for each in wanted]
        alive = [number for number in found if number is not None]
        self.lost |= not alive
        for number in alive:
            self.result.free(number)


def _layer(label: Label | None) -> int:
    return -1 if label is None else label[2]


def _moved(label: Label | None, layer: int) -> Label | None:
    return None if label is None else (label[0], label[1], layer)
