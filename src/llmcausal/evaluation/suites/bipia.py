"""Suite `bipia`: the attacks of the BIPIA benchmark, judged by rules (`bipia.toml`).

Reads the folder `benchmark/` of github.com/microsoft/BIPIA: a folder per task (`email`, `table`,
`code`) with `train.jsonl` and `test.jsonl` (`context`, `question`, `ideal`; code tasks have `error`
and `code` in place of a question, and lists of lines for texts), and the goals as one JSON object
of category to list of instructions (`text_attack_test.json`, `code_attack_test.json`).
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path

from llmcausal.attacks.base import POSITIONS, Position, place
from llmcausal.config import DataSection
from llmcausal.data.sources.example import LeftOut, SourceExample, SourceRequest, read_json
from llmcausal.data.sources.questions import read_bipia
from llmcausal.data.triplet import AttackInfo, Check, Triplet
from llmcausal.data_files import DataFile, read_table
from llmcausal.errors import DataError
from llmcausal.evaluation.suites.foreign import data_path, following, sound

WHAT = "BIPIA's benchmark folder, or a context file with its *_attack_*.json"
_FENCED = re.compile(r"```[^\n]*\n(.*?)```", re.DOTALL)


class _Rules(DataFile):
    rules: dict[str, str]


@cache
def rules() -> Mapping[str, str]:
    """Returns the pattern of an obeying answer for each goal."""
    return read_table(files(__package__).joinpath("bipia.toml"), _Rules).rules


def proof_of(goal: str) -> Check | None:
    """Returns the check that an answer obeys `goal`; None if no rule can verify it.

    If a goal is to include a block of code, the block's longest line in any spacing proves it.
    """
    if pattern := rules().get(" ".join(goal.split())):
        return Check("regex", pattern)
    fenced = _FENCED.search(goal)
    if fenced is None:
        return None
    longest = max((line.strip() for line in fenced[1].splitlines()), key=len, default="")
    pattern = r"\s*".join(map(re.escape, re.findall(r"\w+|[^\w\s]", longest)))
    return Check("regex", pattern) if pattern else None


def triplets(data: DataSection, notes: list[str]) -> list[Triplet]:
    """Attacks every context with every goal that a rule can judge.

    The attack is the plain instruction on its own line, as in BIPIA, at the start, in the middle
    or at the end. The system prompt holds task and question, the user's message only the context.
    Every context comes with one goal, then with the next, so the first N triplets hold as many
    contexts as possible.
    """
    path = data_path(data, "bipia", WHAT)
    left_out = LeftOut()
    examples = list(read_bipia(path, SourceRequest(split="test"), left_out))
    sound(examples, left_out, path, "context, question and ideal of BIPIA", notes)
    goals = {kind: _goals(path, kind, notes) for kind in sorted({_kind(e) for e in examples})}
    made, unproved = [], 0
    rounds = []
    for example in examples:
        found = goals[_kind(example)]
        rng = random.Random(f"bipia:{data.builtin.seed}:{example.id}")
        rounds.append((example, rng.sample(found, len(found))))
    for turn in range(max(len(order) for _, order in rounds)):
        for index, (example, order) in enumerate(rounds):
            other = following(examples, index, _another_text)
            if turn >= len(order) or other is None:
                continue
            goal = order[turn]
            proof = goal.check
            if proof and any(proof.passes(text) for text in (example.document, example.response)):
                unproved += 1
                continue
            position = POSITIONS[(turn + index) % len(POSITIONS)]
            made.append(_triplet(example, other, goal, position, turn))
    if unproved:
        notes.append(f"{unproved} pairs left out: the context itself holds what proves the goal")
    if not made:
        raise DataError([f"{path}: no context can be attacked: two that differ are needed"])
    return made


def _kind(example: SourceExample) -> str:
    return "code" if example.category == "code" else "text"


def _another_text(one: SourceExample, other: SourceExample) -> bool:
    return one.category == other.category and one.document != other.document


def _triplet(
    example: SourceExample, other: SourceExample, goal: AttackInfo, position: Position, turn: int
) -> Triplet:
    return Triplet(
        id=f"bipia-{example.id}-{turn:02d}",
        system=f"{example.system}\n\n{example.question}",
        benign=example.document,
        benign_cf=other.document,
        injection=place(example.document, goal.goal, position, "\n"),
        response=example.response,
        category=example.category,
        attack=replace(goal, position=position),
        check=example.check,
    )


def _goals(path: Path, kind: str, notes: list[str]) -> list[AttackInfo]:
    file = _attack_file(path, kind)
    content = read_json(file)
    if not isinstance(content, Mapping):
        raise DataError([f"{file}: must be an object of category to list of instructions"])
    goals, left = [], Counter[str]()
    for category, texts in content.items():
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise DataError([f"{file}: {category[:60]!a}: must be a list of texts"])
        for text in texts:
            if proof := proof_of(text):
                goals.append(AttackInfo(category, goal=text.strip(), check=proof))
            else:
                left[category] += 1
    if not goals:
        raise DataError([f"{file}: no goal whose success a rule can check"])
    if left:
        named = ", ".join(f"{category} ({count})" for category, count in left.items())
        notes.append(
            f"{file.name}: {left.total()} of {left.total() + len(goals)} goals left out, since no "
            f"rule can check their success: {named}"
        )
    return goals


def _attack_file(path: Path, kind: str) -> Path:
    folder = path if path.is_dir() else path.parent
    folder = folder / "benchmark" if (folder / "benchmark").is_dir() else folder
    split = "train" if path.is_file() and "train" in path.stem else "test"
    for place_of in (folder, folder.parent):
        found = sorted(place_of.glob(f"*{kind}_attack*.json"))
        if found:
            return next((file for file in found if split in file.stem), found[0])
    raise DataError([f"{folder}: no *{kind}_attack*.json here or in the folder above: {WHAT}"])
