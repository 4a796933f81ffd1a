"""Code that the suites of other projects' files share."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from llmcausal.attacks.base import Goal, several
from llmcausal.config import DataSection
from llmcausal.data.builtin import attack_info, load_families
from llmcausal.data.sources.example import Item, LeftOut, parsed
from llmcausal.data.splits import BUILTIN
from llmcausal.data.triplet import Triplet
from llmcausal.errors import DataError, UsageError

T = TypeVar("T")


def data_path(data: DataSection, suite: str, what: str) -> Path:
    """Returns the path in `data.test`; raises a UsageError if there is none."""
    if data.test == BUILTIN:
        raise UsageError(f"suite {suite!r} needs {what}: give --data PATH, or set data.test")
    path = Path(data.test).expanduser()
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder; suite {suite!r} needs {what}")
    return path


def read_items(
    paths: Sequence[Path], parse: Callable[[Item], T], what: str, notes: list[str]
) -> list[T]:
    """Reads the records of JSON or JSONL files; notes those that `parse` cannot use.

    `what` names the records and their required fields, for messages.

    Raises:
        DataError: If a file cannot be read, or nothing in them can be used.
    """
    left_out = LeftOut()
    found = [item for path in paths for item in parsed(path, parse, left_out)]
    return sound(found, left_out, paths[0], what, notes)


def sound(found: list[T], left_out: LeftOut, path: Path, what: str, notes: list[str]) -> list[T]:
    """Returns the found items and notes the unusable ones; raises a DataError without items."""
    if not found:
        raise DataError(left_out.first or [f"{path}: empty"], f"{path}: holds no {what}")
    if left_out.total:
        reasons = "; ".join(f"{count} x {why}" for why, count in left_out.reasons.most_common())
        notes.append(
            f"{path.name}: {left_out.total} records cannot be used: {reasons}. The first: "
            f"{left_out.first[0]}"
        )
    return found


def attacked_again(triplet: Triplet, count: int) -> list[Triplet]:
    """Returns a triplet, and others with its goal in `count - 1` further attacks on its text.

    The attacks are the built-in families', in held-out phrasings. Equal arguments give equal
    attacks.
    """
    attack = triplet.attack
    if attack is None or count == 1:
        return [triplet]
    rng = random.Random(f"llmcausal:{triplet.id}")
    goal = Goal("", attack.goal, attack.witness)
    families = load_families("test", "held_out")
    made = [triplet]
    for each in several(triplet.benign, goal, families, "held_out", count - 1, rng):
        info = attack_info(each.family, goal, each.position, "held_out")
        name = f"{triplet.id}-{len(made)}-{each.family.name}"
        attacked = replace(info, check=attack.check)
        made.append(replace(triplet, id=name, injection=each.text, attack=attacked))
    return made


def following(items: Sequence[T], index: int, differs: Callable[[T, T], bool]) -> T | None:
    """Returns the next item after `index`, then from the start, that differs; None if none does."""
    others = (items[(index + step) % len(items)] for step in range(1, len(items)))
    return next((other for other in others if differs(items[index], other)), None)


def with_counterparts(
    items: Sequence[T], text_of: Callable[[T], str], where: str
) -> Iterator[tuple[T, T]]:
    """Yields each item with the next one of another text; raises a DataError if there is none."""
    for index, item in enumerate(items):
        other = following(items, index, lambda one, two: text_of(one) != text_of(two))
        if other is None:
            raise DataError([f"{where}: two that differ are needed"])
        yield item, other
