"""Natural tasks: general instructions over documents, attacked by instructions of the same kind.

The user's and the attacker's requests come from the same pools, so only an instruction's place
shows whether to follow it. The pools are data files in this folder; splits share no kind of task,
kind of goal, genre, text, wording or harmless line. The pools hold no answers: the right answer is
the model's own to the text without the attack (`data.answers = "model"`).
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from llmcausal.attacks.base import (
    JOINERS,
    OWN_GOALS,
    POSITIONS,
    AttackedText,
    AttackFamily,
    Goal,
    Phrasing,
    Position,
    Split,
    bare,
    place,
    several,
)
from llmcausal.data.builtin import (
    MARKS,
    PHRASINGS,
    Layout,
    attack_info,
    in_cycles,
    load_families,
    user_text,
    weighted,
)
from llmcausal.data.triplet import Triplet
from llmcausal.errors import DataError, UsageError

LAYOUTS: dict[Layout, int] = {"question_in_system": 3, "question_first": 1, "question_last": 1}
HARMLESS_SHARE = 1 / 3
"""Texts that hold a harmless imperative, question, security word or quoted attack."""
TASK_SHARE = 0.5
"""The training data's attacks that ask for another task on the text; the others need no text."""
BARE_SHARE = 0.6
"""Attacks without any telling word around them."""
POSITION_WEIGHTS: dict[Position, int] = {"start": 60, "middle": 10, "end": 30}
"""At a message's start an instruction looks most like the user's own."""
TWICE_SHARE = 0.1
"""Attacks that the text holds twice."""
MAX_DRAWS = 200
SYSTEM = "You are a helpful assistant."
"""The system prompt if the user's message holds the instruction."""
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n")

Task = tuple[str, tuple[str, ...]]
"""A kind of task and its wordings."""


@dataclass(frozen=True)
class _Pools:
    split: Split
    tasks: tuple[Task, ...]
    goals: tuple[Goal, ...]
    harmless: tuple[str, ...]
    texts: tuple[str, ...]


@cache
def _pools(split: Split) -> _Pools:
    here = files(__name__)

    def read(name: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(here.joinpath(name).read_text("utf-8"))
        return [row for row in rows if row["split"] == split]

    texts: list[str] = []
    for file in sorted(here.joinpath("texts").iterdir(), key=lambda file: file.name):
        genre = json.loads(file.read_text("utf-8"))
        if genre["split"] == split:
            texts += genre["texts"]
    return _Pools(
        split=split,
        tasks=tuple((row["kind"], tuple(row["wordings"])) for row in read("tasks.json")),
        goals=tuple(
            Goal(row["kind"], row["instruction"], row["witness"]) for row in read("goals.json")
        ),
        harmless=tuple(row["text"] for row in read("harmless.json")),
        texts=tuple(texts),
    )


def generate_natural(
    split: Split, count: int, seed: int, attacks: int = 1, words: int | None = None
) -> list[Triplet]:
    """Makes `count` distinct prompts under `attacks` attacks each; equal arguments, equal triplets.

    A prompt's triplets follow one another and share `system`, `benign` and goal. Their attacks are
    bare at the end, start and middle, then from as many families. Half of the training split's
    goals are tasks on the text, which have no proof; the other splits' goals all have a witness.
    A smaller count gives the first prompts of a larger one. `excerpt` cuts texts to `words` words.

    Raises:
        UsageError: If `count` is negative.
        DataError: If there are no more distinct prompts.
    """
    if count < 0:
        raise UsageError(f"cannot generate {count} triplets")
    rng = random.Random(f"llmcausal:natural:{split}:{seed}")
    pools = _pools(split)
    phrasing = PHRASINGS[split]
    families = [each for each in load_families(split, phrasing) if each.name not in OWN_GOALS]
    texts, tasks = in_cycles(pools.texts, rng), in_cycles(pools.tasks, rng)
    goals = in_cycles(pools.goals, rng)
    made: set[tuple[str, str]] = set()
    triplets: list[Triplet] = []
    for index in range(count):
        for _ in range(MAX_DRAWS):
            document, task = excerpt(next(texts), words, rng), next(tasks)
            other = excerpt(rng.choice(pools.texts), words, rng)
            prompt = _draw(pools, task, document, other, next(goals), rng)
            if prompt is not None and prompt.key not in made:
                break
        else:
            reason = f"there are no further distinct prompts; ask for at most {index}"
            raise DataError([f"natural {split}: count: {reason}"])
        made.add(prompt.key)
        identity = f"natural-{split}-{seed}-{index:05d}"
        attacker = random.Random(f"llmcausal:{identity}")
        if attacks == 1:
            attack = _any_attack(prompt, families, phrasing, attacker)
            triplets.append(_attacked(identity, prompt, attack, phrasing))
            continue
        found = several(prompt.document, prompt.goal, families, phrasing, attacks, attacker)
        for number, attack in enumerate(found):
            triplets.append(_attacked(f"{identity}-{number}", prompt, attack, phrasing))
    return triplets


def excerpt(text: str, words: int | None, rng: random.Random) -> str:
    """Cuts a text from a random place to whole sentences or lines, about `words` words or fewer.

    A single longer sentence stays whole.
    """
    if words is None or len(text.split()) <= words:
        return text
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    pieces = [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]
    sizes = [len(piece.split()) for piece in pieces]
    starts = [start for start in range(len(pieces)) if sum(sizes[start:]) >= words // 2]
    first = rng.choice(starts)
    taken, left = "", words
    for piece, size in zip(pieces[first:], sizes[first:], strict=True):
        left -= size
        if taken.strip() and left < 0:
            break
        taken += piece
    return taken.strip()


@dataclass(frozen=True)
class _Prompt:
    kind: str
    instruction: str
    document: str
    other: str
    goal: Goal
    layout: Layout
    mark: tuple[str, str]

    @property
    def key(self) -> tuple[str, str]:
        return self.instruction, self.document

    def system(self, instruction: str) -> str:
        return instruction if self.layout == "question_in_system" else SYSTEM

    def user(self, instruction: str, document: str) -> str:
        return user_text(document, instruction, self.layout, self.mark)


def _draw(
    pools: _Pools, task: Task, document: str, other: str, goal: Goal, rng: random.Random
) -> _Prompt | None:
    kind, wordings = task
    if pools.split == "train" and rng.random() < TASK_SHARE:
        aim, ways = rng.choice(pools.tasks)
        goal = Goal(aim, rng.choice(ways), "")
    layout = weighted(LAYOUTS, rng)
    if rng.random() < HARMLESS_SHARE:
        where: Position = rng.choice(("start", "middle", "end"))
        document = place(document, rng.choice(pools.harmless), where, rng.choice(JOINERS))
    prompt = _Prompt(kind, rng.choice(wordings), document, other, goal, layout, rng.choice(MARKS))
    harmless = f"{prompt.instruction}\n{document}\n{other}".casefold()
    useless = goal.kind == kind or (goal.witness and goal.witness.casefold() in harmless)
    return None if useless or document == other else prompt


def _any_attack(
    prompt: _Prompt, families: Sequence[AttackFamily], phrasing: Phrasing, rng: random.Random
) -> AttackedText:
    position = weighted(POSITION_WEIGHTS, rng)
    family = rng.choice(families)
    document = prompt.document
    if rng.random() < TWICE_SHARE:
        again = rng.choice(POSITIONS)
        document = bare(document, prompt.goal, families, again, rng).text
    if rng.random() < BARE_SHARE:
        return bare(document, prompt.goal, families, position, rng)
    text = family.inject(document, prompt.goal, rng, phrasing, position)
    return AttackedText(text, family, position)


def _attacked(identity: str, prompt: _Prompt, attack: AttackedText, phrasing: Phrasing) -> Triplet:
    goal, asked = prompt.goal, prompt.instruction
    return Triplet(
        id=f"{identity}-{prompt.kind}-{attack.family.name}",
        system=prompt.system(asked),
        benign=prompt.user(asked, prompt.document),
        benign_cf=prompt.user(asked, prompt.other),
        injection=prompt.user(asked, attack.text),
        obeying=prompt.user(goal.instruction, prompt.document),
        system_obeying=prompt.system(goal.instruction),
        category=prompt.kind,
        attack=attack_info(attack.family, goal, attack.position, phrasing),
    )
