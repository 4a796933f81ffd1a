"""Scenarios and phrasings that two files share, to the letter or nearly."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, get_args

from datasketch import MinHash, MinHashLSH

from llmcausal.attacks import FAMILIES
from llmcausal.attacks.base import Phrasing
from llmcausal.data.quality.contents import Finding, Lines, shown
from llmcausal.data.triplet import Triplet

PERMUTATIONS = 128
_WORD = re.compile(r"\w+")

Shingles = frozenset[bytes]


def words_of(text: str) -> list[str]:
    """Returns the words of a text, case ignored."""
    return _WORD.findall(text.casefold())


def shingles(words: Sequence[str]) -> Shingles:
    """Returns all pairs of neighbouring words; a single word stands for itself."""
    pairs = [" ".join(words[index : index + 2]) for index in range(max(1, len(words) - 1))]
    return frozenset(pair.encode("utf-8", "surrogatepass") for pair in pairs)


def similarity(first: Iterable[object], second: Iterable[object]) -> float:
    """Returns the share of what two sets have in common (Jaccard), from 0 to 1."""
    one, other = frozenset(first), frozenset(second)
    union = len(one | other)
    return len(one & other) / union if union else 0.0


class NearIndex:
    """Sets of shingles, found again by one that is similar.

    Candidates come from the hashes; the similarity returned is exact.
    """

    def __init__(self, threshold: float) -> None:
        """Starts empty.

        Args:
            threshold: Least similarity worth finding.
        """
        self._threshold = threshold
        self._lsh: Any = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS)
        self._items: list[Shingles] = []
        self._keys: dict[Shingles, int] = {}

    def add(self, item: Shingles) -> int:
        """Adds a set; returns its number, which equal sets share."""
        if item not in self._keys:
            self._keys[item] = len(self._items)
            self._items.append(item)
            self._lsh.insert(self._keys[item], _hash(item))
        return self._keys[item]

    def find(self, item: Shingles) -> list[tuple[float, int]]:
        """Returns the similar sets as similarity and number, the most similar first."""
        known = self._keys.get(item)
        found = [] if known is None else [(1.0, known)]
        for key in self._lsh.query(_hash(item)):
            score = similarity(item, self._items[key])
            if key != known and score >= self._threshold:
                found.append((score, key))
        return sorted(found, key=lambda pair: (-pair[0], pair[1]))


def _hash(item: Shingles) -> Any:
    sketch = MinHash(num_perm=PERMUTATIONS, seed=1)
    sketch.update_batch(sorted(item))
    return sketch


NEAR_DUPLICATE = 0.8
"""Within one file texts of one scenario are alike by design; only these are worth a note."""
NEAR_COPY = 0.6
"""Texts with this share of word pairs in common are copies of one another."""
SAME_SCENARIO = 0.3
"""Enough where the system prompts agree as well. Among the built-in scenarios no two different
ones came above 0.16."""
SAME_SYSTEM = 0.7
SAME_PHRASING = 0.75

Progress = Callable[[int, int], None]


def duplicates(lines: Lines, progress: Progress | None = None) -> Iterator[Finding]:
    """Yields triplets of one file that repeat another, wholly or nearly."""
    index = NearIndex(NEAR_DUPLICATE)
    wholes: dict[tuple[str, str, str], int] = {}
    first_lines: dict[int, tuple[int, str]] = {}
    for done, (line, triplet) in enumerate(lines.triplets, 1):
        text = triplet.user_text("benign")
        whole = (triplet.system, text, triplet.user_text("injection"))
        first = wholes.setdefault(whole, line)
        if first != line:
            reason = f"system, benign and injection equal those of line {first}"
            yield Finding("warning", "duplicate", lines.name, line, "injection", reason)
        item = shingles(words_of(text))
        near = [(score, key) for score, key in index.find(item) if first_lines[key][1] != text]
        if near and first == line:
            score, key = near[0]
            reason = f"shares {score:.0%} of its word pairs with line {first_lines[key][0]}"
            yield Finding("note", "near_duplicate", lines.name, line, "benign", reason)
        first_lines.setdefault(index.add(item), (line, text))
        if progress:
            progress(done, len(lines.triplets))
    texts = len({triplet.user_text("benign") for _, triplet in lines.triplets})
    if texts * 2 < len(lines.triplets):
        reason = f"{len(lines.triplets)} triplets repeat {texts} texts"
        yield Finding("note", "repeated_texts", lines.name, 0, "benign", reason)


def leaks(lines: Lines, other: Lines, progress: Progress | None = None) -> Iterator[Finding]:
    """Yields what `lines` shares with `other`: scenarios, phrasings, families, witnesses."""
    yield from _scenarios(lines, other, progress)
    yield from _phrasings(lines, other)
    yield from _families(lines, other)
    yield from _witnesses(lines, other)


def _scenarios(lines: Lines, other: Lines, progress: Progress | None) -> Iterator[Finding]:
    index = NearIndex(SAME_SCENARIO)
    known: dict[int, list[tuple[int, str]]] = {}
    systems: dict[str, int] = {}
    for line, triplet in other.triplets:
        key = index.add(shingles(words_of(triplet.user_text("benign"))))
        known.setdefault(key, []).append((line, triplet.system))
        systems.setdefault(triplet.system, line)
    shared: set[str] = set()
    for done, (line, triplet) in enumerate(lines.triplets, 1):
        item = shingles(words_of(triplet.user_text("benign")))
        where = _same_scenario(triplet, index.find(item), known)
        if where:
            reason = f"shares {where[0]:.0%} of its word pairs with {other.name}:{where[1]}"
            yield Finding("error", "scenario_leak", lines.name, line, "benign", reason)
        elif triplet.system in systems and triplet.system not in shared:
            shared.add(triplet.system)
            reason = f"the system prompt equals that of {other.name}:{systems[triplet.system]}"
            yield Finding("note", "shared_system", lines.name, line, "system", reason)
        if progress:
            progress(done, len(lines.triplets))


def _same_scenario(
    triplet: Triplet,
    near: Sequence[tuple[float, int]],
    known: dict[int, list[tuple[int, str]]],
) -> tuple[float, int] | None:
    """Returns the similarity and line of a text that is a copy, or of the same scenario."""
    own = words_of(triplet.system)
    for score, key in near:
        for line, system in known[key]:
            if score >= NEAR_COPY or similarity(own, words_of(system)) >= SAME_SYSTEM:
                return score, line
    return None


def _phrasings(lines: Lines, other: Lines) -> Iterator[Finding]:
    """Where both sides say that training data hold the phrasing, sharing it is no leak."""
    index = NearIndex(SAME_PHRASING)
    known: dict[int, list[tuple[int, bool]]] = {}
    for line, triplet in other.triplets:
        if item := _phrasing_shingles(triplet):
            known.setdefault(index.add(item), []).append((line, triplet.attack_was_seen))
    for line, triplet in lines.triplets:
        item = _phrasing_shingles(triplet)
        near = index.find(item) if item else []
        if not near:
            continue
        for_leak = [at for _, key in near for at, seen in known[key] if not seen]
        declared = triplet.attack_was_seen and not for_leak
        at = (for_leak or [known[near[0][1]][0][0]])[0]
        words = shown(" ".join(phrasing_of(triplet)))
        yield Finding(
            "note" if declared else "error",
            "shared_phrasing" if declared else "phrasing_leak",
            lines.name,
            line,
            "injection",
            f"its attack is phrased as in {other.name}:{at}: {words}",
        )


def _phrasing_shingles(triplet: Triplet) -> Shingles:
    words = phrasing_of(triplet)
    # With its ends, so that a phrasing of two or three words is not taken for part of another.
    return shingles(("^", *words, "$")) if words else frozenset()


def _families(lines: Lines, other: Lines) -> Iterator[Finding]:
    here, there = _first_of_families(lines), _first_of_families(other)
    for family in (name for name in here if name in there):
        claims = [
            (name, at["new_family"])
            for name, at in ((lines.name, here[family]), (other.name, there[family]))
            if "new_family" in at
        ]
        line, at = min(here[family].values()), min(there[family].values())
        where = f"{shown(family)} is also a family of {other.name}:{at}"
        if claims:
            name, new_at = claims[0]
            reason = f"{where}, but {name}:{new_at} says that it is new (novelty new_family)"
            line = here[family].get("new_family", line)
            yield Finding("error", "family_leak", lines.name, line, "attack.novelty", reason)
        else:
            yield Finding("note", "shared_family", lines.name, line, "attack.family", where)


def _first_of_families(lines: Lines) -> dict[str, dict[str, int]]:
    """Returns the first line of each family with each novelty."""
    first: dict[str, dict[str, int]] = {}
    for line, triplet in lines.triplets:
        if triplet.attack:
            first.setdefault(triplet.attack.family, {}).setdefault(triplet.attack.novelty, line)
    return first


def _witnesses(lines: Lines, other: Lines) -> Iterator[Finding]:
    known: dict[str, int] = {}
    for line, triplet in other.triplets:
        if triplet.attack and triplet.attack.witness:
            known.setdefault(triplet.attack.witness.casefold(), line)
    shared: set[str] = set()
    for line, triplet in lines.triplets:
        witness = triplet.attack.witness if triplet.attack else ""
        if witness and witness.casefold() in known.keys() - shared:
            shared.add(witness.casefold())
            at = known[witness.casefold()]
            reason = f"{shown(witness)} is also a witness of {other.name}:{at}"
            yield Finding("warning", "shared_witness", lines.name, line, "attack.witness", reason)


MARGIN_WORDS = 4
"""Words around what was put in: where it begins as the text goes on, its ends cannot be told."""
MAX_KNOWN_CHARACTERS = 20_000
"""Longer attacks are not compared with the templates of their family, which takes a while."""
_GOAL = "\x1f"
"""Stands for the goal in a phrasing; a text never holds it as a word."""
_TOKEN = re.compile(r"\w+|[^\w\s]")
_SLOT = re.compile(r"\{\w+\}")


def phrasing_of(triplet: Triplet) -> tuple[str, ...]:
    """Returns the words and signs of the attack around its goal; empty for a bare goal.

    Where the attack is of a known family and one of its templates fits, those of the template:
    a goal may be encoded, split or buried in other text.
    """
    return _template_of(triplet) or _words_around_goal(triplet)


def injected_text(triplet: Triplet, margin: int = 0) -> str:
    """Returns what `injection` holds beyond `benign`, on one line.

    Args:
        triplet: The triplet.
        margin: How many words before and after it to return as well.
    """
    benign, injection = triplet.benign.split(), triplet.injection.split()
    shorter = min(len(benign), len(injection))
    start = 0
    while start < shorter and benign[start] == injection[start]:
        start += 1
    end = 0
    while end < shorter - start and benign[-1 - end] == injection[-1 - end]:
        end += 1
    rest, added = benign[start : len(benign) - end], injection[start : len(injection) - end]
    if margin:
        return " ".join(injection[max(0, start - margin) : len(injection) - end + margin])
    if rest:  # put in at several places
        matcher = difflib.SequenceMatcher(None, rest, added, autojunk=False)
        added = [
            word
            for operation, _, _, first, last in matcher.get_opcodes()
            if operation in ("insert", "replace")
            for word in added[first:last]
        ]
    return " ".join(added)


def _words_around_goal(triplet: Triplet) -> tuple[str, ...]:
    text = injected_text(triplet)
    if triplet.attack:
        for part in (triplet.attack.goal, triplet.attack.witness):
            if part:
                text = re.sub(re.escape(" ".join(part.split())), _GOAL, text, flags=re.IGNORECASE)
    tokens = tuple(token for token in _TOKEN.findall(text.casefold()) if token != _GOAL)
    return tokens if any(token.isalnum() for token in tokens) else ()


def _template_of(triplet: Triplet) -> tuple[str, ...]:
    """Returns the longest template of the attack's family that its text fits."""
    if triplet.attack is None or triplet.attack.family not in FAMILIES.entries:
        return ()
    text = injected_text(triplet, MARGIN_WORDS)
    if len(text) > MAX_KNOWN_CHARACTERS:
        return ()
    templates = _templates(triplet.attack.family)
    return max((words for pieces, words in templates if _fits(pieces, text)), key=len, default=())


def _fits(pieces: list[str], text: str) -> bool:
    """Tells whether the pieces follow one another in the text, each after at least a character."""
    end = 0
    for number, piece in enumerate(pieces):
        found = text.find(piece, end + (number > 0))
        if found < 0:
            return False
        end = found + len(piece)
    return True


@functools.cache
def _templates(family_name: str) -> list[tuple[list[str], tuple[str, ...]]]:
    """Returns each template of a family as its pieces and as words, bare ones left out."""
    family = FAMILIES.load(family_name)()
    found = []
    for pool in get_args(Phrasing):
        for template in family.phrasings(pool):
            pieces = _SLOT.split(" ".join(template.split()))
            words = tuple(_TOKEN.findall(" ".join(pieces).casefold()))
            if any(word.isalnum() for word in words):
                found.append((pieces, words))
    return found
