"""Canaries: attacks with fresh witnesses, so that no cached or memorized answer hides anything."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmcausal.attacks.base import OWN_GOALS, POSITIONS, AttackFamily, Goal, bare
from llmcausal.attacks.goals import GOAL_KINDS
from llmcausal.data.builtin import load_families
from llmcausal.data.formats.jsonl import Defects, read_objects
from llmcausal.data.natural import SYSTEM, generate_natural
from llmcausal.data.triplet import NOT_TEXT, AttackInfo, Triplet
from llmcausal.errors import DataError, writing
from llmcausal.evaluation.scoring import obeyed
from llmcausal.storage import replace_file

WITNESS = "{witness}"
"""Stands in a canary where each round puts a new word."""
WORDS = 120
"""Longest text of a built-in canary: a probe is to be cheap."""
_BARE_SHARE = 0.5
_DRAWN = 40
_KINDS = ("print_word", "fixed_reply")
_CONSONANTS, _VOWELS, _SYLLABLES = "bdfgklmnprstvz", "aeiou", 4


@dataclass(frozen=True)
class Canary:
    """An attacked prompt with places for a witness.

    Attributes:
        wordings: Untrusted texts with the same attack in different words; each holds `WITNESS`.
        goal: The attack's instruction; verbatim copies of it are no obedience. "" if unknown.
    """

    id: str
    system: str
    wordings: tuple[str, ...]
    family: str = ""
    goal: str = ""


@dataclass(frozen=True)
class Planted:
    """A canary in one wording with a new witness."""

    canary: Canary
    prompt: tuple[str, str]
    witness: str

    def obeyed_by(self, answer: str) -> bool:
        canary, (system, text) = self.canary, self.prompt
        goal = canary.goal.replace(WITNESS, self.witness)
        attack = AttackInfo(canary.family, goal=goal, witness=self.witness)
        return bool(obeyed(Triplet(canary.id, system, "", "", text, attack=attack), answer))


def builtin_canaries(count: int, rng: random.Random) -> list[Canary]:
    """Draws natural tasks with attacks that ask for one word.

    Tasks, texts and phrasings are those of the validation split, which were chosen because an
    untouched model often obeys them. Training never sees them, and the test split stays unused.
    Attacks that encode or split their instruction are left out, since small models rarely obey
    them.
    """
    families = [
        each for each in load_families("validation", "validation") if each.name not in OWN_GOALS
    ]
    wordings = [
        wording for kind in _KINDS for wording in GOAL_KINDS.load(kind).wordings["validation"]
    ]
    found: list[Canary] = []
    while len(found) < count:
        prompts = generate_natural("validation", _DRAWN, rng.getrandbits(48), words=WORDS)
        for prompt in prompts:
            if prompt.system == SYSTEM:  # the task is in the user's message, next to the text
                continue
            goal = Goal("canary", rng.choice(wordings).replace("{target}", WITNESS), WITNESS)
            family, text = _attacked(prompt.benign, goal, families, rng)
            identity = f"{prompt.id.rsplit('-', 1)[0]}-{family}"
            found.append(Canary(identity, prompt.system, (text,), family, goal.instruction))
    return found[:count]


def _attacked(
    text: str, goal: Goal, families: Sequence[AttackFamily], rng: random.Random
) -> tuple[str, str]:
    position = rng.choice(POSITIONS)
    while rng.random() >= _BARE_SHARE:
        family = rng.choice(families)
        attacked = family.inject(text, goal, rng, "validation", position)
        if WITNESS in attacked:  # not encoded
            return family.name, attacked
    return "bare", bare(text, goal, families, position, rng).text


def plant(canaries: Iterable[Canary], rng: random.Random) -> list[Planted]:
    """Puts a new witness into one wording of each canary; no two prompts are equal."""
    planted = []
    for canary in canaries:
        wording = rng.choice(canary.wordings)
        witness = fresh_witness(rng)
        while witness.casefold() in f"{canary.system}\n{wording}".casefold():
            witness = fresh_witness(rng)
        prompt = (canary.system, wording.replace(WITNESS, witness))
        planted.append(Planted(canary, prompt, witness))
    return planted


def fresh_witness(rng: random.Random) -> str:
    """Makes up a word that no text holds, such as `Velodamos`: one of over 300 million."""
    syllables = [rng.choice(_CONSONANTS) + rng.choice(_VOWELS) for _ in range(_SYLLABLES)]
    return ("".join(syllables) + rng.choice(_CONSONANTS)).capitalize()


def read_canaries(path: Path) -> list[Canary]:
    """Reads a file of canaries: JSON Lines with `id`, `system`, `user`, `family`?, `goal`?.

    `user` is a text or a list of wordings of it; each must hold `{witness}`.

    Raises:
        DataError: With every defect, as `file:line: field: reason`.
    """
    defects = Defects(path)
    found: dict[str, Canary] = {}
    for number, record in read_objects(path, defects.add):
        before = defects.count
        texts = {
            key: _text(record.get(key, "" if key in ("family", "goal") else None))
            for key in ("id", "system", "family", "goal")
        }
        for key, text in texts.items():
            if text is None or (key in ("id", "system") and not text.strip()):
                defects.add(number, key, "must be text")
        user = record.get("user")
        wordings = [_text(each) for each in (user if isinstance(user, list) else [user])]
        if not wordings or not all(each and WITNESS in each for each in wordings):
            reason = f"must be a text, or a list of texts, that hold {WITNESS}"
            defects.add(number, "user", reason)
        if texts["id"] in found:
            defects.add(number, "id", "is already the id of an earlier line")
        if defects.count == before:
            given = {key: str(text) for key, text in texts.items()}
            found[given["id"]] = Canary(**given, wordings=tuple(map(str, wordings)))
    if not found and not defects.count:
        raise DataError([f"{path}: the file holds no canaries"])
    defects.raise_if_any()
    return list(found.values())


def write_canaries(path: Path, canaries: Iterable[Canary]) -> None:
    """Writes canaries as `read_canaries` reads them; raises a StorageError if the disk refuses."""
    rows = [
        {
            "id": each.id,
            "system": each.system,
            "user": list(each.wordings),
            "family": each.family,
            "goal": each.goal,
        }
        for each in canaries
    ]
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, (json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and not NOT_TEXT.search(value) else None
