"""What two sets of triplets share that should be unknown to a model trained on one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from llmcausal.data.quality.finding import Finding, Lines, shown
from llmcausal.data.quality.near import NearIndex, Shingles, shingles, similarity, words_of
from llmcausal.data.quality.phrasings import phrasing_of
from llmcausal.data.triplet import Triplet

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
