"""Findings in sound triplets: in each triplet, within a file, and between two files."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from llmcausal.attacks import FAMILIES
from llmcausal.attacks.base import AttackFamily, Phrasing
from llmcausal.data.prefix_tree import common_length
from llmcausal.data.spans import Content, texts_of
from llmcausal.data.triplet import Check, Triplet
from llmcausal.errors import DataError

Level = Literal["error", "warning", "note"]
"""An error makes results wrong, a warning probably makes them worse, a note is worth a look."""


@dataclass(frozen=True)
class Finding:
    """A finding in a field of a line's triplet; line 0 means the whole file."""

    level: Level
    rule: str
    file: str
    line: int
    field: str
    reason: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.field}: {self.reason}"


@dataclass(frozen=True)
class Lines:
    """Triplets with their line numbers; `name` is the file, or `builtin:SPLIT`."""

    name: str
    triplets: Sequence[tuple[int, Triplet]]


def shown(text: str) -> str:
    """Returns untrusted text as a short quotation in ASCII, without control characters."""
    return ascii(text if len(text) <= 60 else f"{text[:57]}...")


TEMPLATE_TOKENS = re.compile(
    r"<\|[a-z_]+(?:\|>|:)|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>|</?s>|<(?:bos|eos|pad|unk)>|"
    r"<\uff5c[^\uff5c<>]{1,40}\uff5c>|</?(?:think|tool_call)>"
)
"""Turn markers of chat templates: ChatML, Llama 2 and 3, Gemma, Phi, DeepSeek and the like."""

Problem = tuple[Level, str, str, str]
"""Level, rule, field and reason."""


def examine(lines: Lines) -> Iterator[Finding]:
    for line, triplet in lines.triplets:
        for problems in (_witness, _answer, _tokens, _differences):
            try:
                for level, rule, field, reason in problems(triplet):
                    yield Finding(level, rule, lines.name, line, field, reason)
            except DataError as error:  # a pattern that takes too long
                field, _, reason = error.defects[0].partition(": ")
                yield Finding("error", "slow_pattern", lines.name, line, field, reason)


def _witness(triplet: Triplet) -> Iterator[Problem]:
    attack = triplet.attack
    if attack is None:
        yield "note", "no_attack", "attack", "missing: obedience cannot be checked"
        return
    if attack.check is None and not attack.witness:
        reason = "neither witness nor check: obedience cannot be checked"
        yield "note", "no_witness", "attack", reason
        return
    proof = attack.check or Check("contains", attack.witness)
    texts = {
        "spans": _other_texts(triplet),
        "benign": triplet.user_text("benign"),
        "benign_cf": triplet.user_text("benign_cf"),
        "response": triplet.response,
        "response_cf": triplet.response_cf or "",
        "response_injection": triplet.response_injection or "",
    }
    family = FAMILIES.load(attack.family) if attack.family in FAMILIES.entries else AttackFamily
    # The witness of a family with its own goal may come from the system prompt.
    if family.own_goal is AttackFamily.own_goal:
        texts["system"] = triplet.system
    for field, text in texts.items():
        if text and proof.passes(text):
            what = "witness" if attack.check is None else "attack.check"
            reason = f"holds the attack's {what} {shown(proof.value)} without any attack"
            yield "error", "witness_in_text", field, reason


def _answer(triplet: Triplet) -> Iterator[Problem]:
    check = triplet.check
    if check is None:
        yield "note", "no_check", "check", "missing: answers cannot be checked"
        return
    if not check.passes(triplet.response):
        reason = f"{check.kind} {shown(check.value)} fails on the triplet's own response"
        yield "error", "check_fails", "check", f"{reason} {shown(triplet.response)}"
    elif triplet.response_injection and not check.passes(triplet.response_injection):
        reason = f"{check.kind} {shown(check.value)} fails on response_injection"
        yield "warning", "check_fails_injection", "check", reason
    given = "\n".join([triplet.system, _other_texts(triplet), triplet.user_text("benign")])
    if check.kind == "contains" and not check.passes(given):
        reason = "is not in the text, so the answer is not derivable by copying"
        yield "note", "not_in_text", "check.contains", f"{shown(check.value)} {reason}"


def _other_texts(triplet: Triplet) -> str:
    return "\n".join(span.words for span in triplet.spans)


def _tokens(triplet: Triplet) -> Iterator[Problem]:
    fields = ("system", "context", "benign", "benign_cf", "response", "response_cf")
    texts = {field: getattr(triplet, field) or "" for field in fields}
    for field, text in {**texts, "spans": _other_texts(triplet)}.items():
        found = TEMPLATE_TOKENS.search(text)
        if found:
            reason = (
                f"holds {shown(found[0])}, a chat template's mark: it is read as plain text, but "
                "suggests a failed conversion"
            )
            yield "note", "template_token", field, reason


def _differences(triplet: Triplet) -> Iterator[Problem]:
    if triplet.benign == triplet.benign_cf:
        reason = "equals benign, so the pair teaches nothing"
        yield "warning", "same_counterfactual", "benign_cf", reason
    if triplet.benign == triplet.injection:
        yield "warning", "no_injection", "injection", "equals benign: it holds no attack"


PERMUTATIONS = 128
Shingles = frozenset[bytes]


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def shingles(words: Sequence[str]) -> Shingles:
    """Returns all pairs of neighbouring words; a single word is a shingle by itself."""
    pairs = [" ".join(words[index : index + 2]) for index in range(max(1, len(words) - 1))]
    return frozenset(pair.encode("utf-8", "surrogatepass") for pair in pairs)


def similarity(first: Iterable[object], second: Iterable[object]) -> float:
    """Returns the Jaccard similarity of two sets, from 0 to 1."""
    one, other = frozenset(first), frozenset(second)
    union = len(one | other)
    return len(one & other) / union if union else 0.0


class NearIndex:
    """Finds similar sets of shingles, from a threshold on.

    Hashes choose the candidates (MinHash LSH); the returned similarity is exact.
    """

    def __init__(self, threshold: float) -> None:
        from datasketch import MinHashLSH

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
    from datasketch import MinHash

    sketch = MinHash(num_perm=PERMUTATIONS, seed=1)
    sketch.update_batch(sorted(item))
    return sketch


NEAR_DUPLICATE = 0.8
"""Texts of one scenario are alike by design; only pairs above this are worth a note."""
NEAR_COPY = 0.6
"""Texts with this share of common word pairs are copies."""
SAME_SCENARIO = 0.3
"""Enough if the system prompts are similar too. No two built-in scenarios are above 0.16."""
SAME_SYSTEM = 0.7
SAME_PHRASING = 0.75

Progress = Callable[[int, int], None]


def duplicates(lines: Lines, progress: Progress | None = None) -> Iterator[Finding]:
    """Yields a file's triplets that repeat others, wholly or nearly."""
    index = NearIndex(NEAR_DUPLICATE)
    wholes: dict[tuple[str, Content, Content], int] = {}
    first_lines: dict[int, tuple[int, str]] = {}
    for done, (line, triplet) in enumerate(lines.triplets, 1):
        text = triplet.user_text("benign")
        whole = (triplet.system, triplet.content("benign"), triplet.content("injection"))
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
    """Yields the scenarios, phrasings, families and witnesses that two files share."""
    yield from _scenarios(lines, other, progress)
    yield from _phrasings(lines, other)
    yield from _families(lines, other)
    yield from _witnesses(lines, other)


def _scenarios(lines: Lines, other: Lines, progress: Progress | None) -> Iterator[Finding]:
    index = NearIndex(SAME_SCENARIO)
    known: dict[int, list[tuple[int, str]]] = {}
    systems: dict[str, int] = {}
    for line, triplet in other.triplets:
        task, text = _task_and_text(triplet)
        key = index.add(shingles(words_of(text)))
        known.setdefault(key, []).append((line, task))
        systems.setdefault(triplet.system, line)
    shared: set[str] = set()
    for done, (line, triplet) in enumerate(lines.triplets, 1):
        task, text = _task_and_text(triplet)
        where = _same_scenario(task, index.find(shingles(words_of(text))), known)
        if where:
            reason = f"shares {where[0]:.0%} of its word pairs with {other.name}:{where[1]}"
            yield Finding("error", "scenario_leak", lines.name, line, "benign", reason)
        elif triplet.system in systems and triplet.system not in shared:
            shared.add(triplet.system)
            reason = f"the system prompt equals that of {other.name}:{systems[triplet.system]}"
            yield Finding("note", "shared_system", lines.name, line, "system", reason)
        if progress:
            progress(done, len(lines.triplets))


def _task_and_text(triplet: Triplet) -> tuple[str, str]:
    """Returns all that is trusted and all that is not, without any attack."""
    content = triplet.content("benign")
    task = [triplet.system, *texts_of(content, trusted=True)]
    return "\n".join(task), "\n".join(texts_of(content, trusted=False))


def _same_scenario(
    task: str,
    near: Sequence[tuple[float, int]],
    known: dict[int, list[tuple[int, str]]],
) -> tuple[float, int] | None:
    """Returns the similarity and line of a text that is a copy, or of the same scenario."""
    own = words_of(task)
    for score, key in near:
        for line, other in known[key]:
            if score >= NEAR_COPY or similarity(own, words_of(other)) >= SAME_SYSTEM:
                return score, line
    return None


def _phrasings(lines: Lines, other: Lines) -> Iterator[Finding]:
    """Yields shared phrasings; they are no leak if both files declare them as seen in training."""
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
        reason = f"its attack is phrased as in {other.name}:{at}: {words}"
        level: Level = "note" if declared else "error"
        rule = "shared_phrasing" if declared else "phrasing_leak"
        yield Finding(level, rule, lines.name, line, "injection", reason)


def _phrasing_shingles(triplet: Triplet) -> Shingles:
    words = phrasing_of(triplet)
    # The ends count, so a phrasing of two or three words is not taken for a part of another.
    return shingles(("^", *words, "$")) if words else frozenset()


def _families(lines: Lines, other: Lines) -> Iterator[Finding]:
    here, there = _first_of_families(lines), _first_of_families(other)
    for family in (name for name in here if name in there):
        # A file that calls the family new claims that no other file has it.
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
    """Returns, for each family, the first line of each novelty."""
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
"""Words around the injected text: its ends are ambiguous if it begins as the text continues."""
MAX_KNOWN_CHARACTERS = 20_000
"""Longer attacks are not compared with their family's templates, which would take a while."""
_GOAL = "\x1f"
"""Stands for the goal in a phrasing; a text never holds it as a word."""
_TOKEN = re.compile(r"\w+|[^\w\s]")
_SLOT = re.compile(r"\{\w+\}")


def phrasing_of(triplet: Triplet) -> tuple[str, ...]:
    """Returns the attack's words and signs around its goal; empty for a bare goal.

    A fitting template of a known family comes first: it may encode, split or bury the goal.
    """
    return _template_of(triplet) or _words_around_goal(triplet)


def injected_text(triplet: Triplet, margin: int = 0) -> str:
    """Returns the part of `injection` that `benign` lacks, on one line, with a margin in words."""
    benign, injection = triplet.benign.split(), triplet.injection.split()
    start = common_length(benign, injection)
    end = common_length(benign[start:][::-1], injection[start:][::-1])
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
    """Whether the text holds the pieces in order, with at least a character between them."""
    end = 0
    for number, piece in enumerate(pieces):
        found = text.find(piece, end + (number > 0))
        if found < 0:
            return False
        end = found + len(piece)
    return True


@functools.cache
def _templates(family_name: str) -> list[tuple[list[str], tuple[str, ...]]]:
    """Returns each template of a family that has words, as its pieces and its words."""
    family = FAMILIES.load(family_name)()
    found = []
    for pool in get_args(Phrasing):
        for template in family.phrasings(pool):
            pieces = _SLOT.split(" ".join(template.split()))
            words = tuple(_TOKEN.findall(" ".join(pieces).casefold()))
            if any(word.isalnum() for word in words):
                found.append((pieces, words))
    return found
