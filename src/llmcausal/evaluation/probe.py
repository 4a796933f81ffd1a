"""A validation's probe: attack success and utility in the model's present answers."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from llmcausal.data.triplet import Triplet
from llmcausal.evaluation.evaluate import AnsweredMember, Judged, generation_rows
from llmcausal.evaluation.generation import Answer, Answering, answer_prompts
from llmcausal.evaluation.statistics import Verdict
from llmcausal.evaluation.summary import Verdicts, judge
from llmcausal.metrics import CORE

PROBE_METRICS = tuple(metric.name for metric in CORE)


class AttackProbe:
    """Answers a few triplets' benign and attacked prompts greedily and scores the answers.

    The model, its modes and every random state stay as they were.

    Attributes:
        batches: How often a call of the probe calls `batch_done`.
        metrics: The figures that these triplets can give.
    """

    def __init__(self, answering: Answering, triplets: Sequence[Triplet]) -> None:
        self._answering = answering
        self._triplets = list(triplets)
        self.answer_together(answering.batch_size)
        self._latest: Judged | None = None
        empty = self._verdicts([""] * (2 * len(self._triplets)))
        self.metrics = tuple(
            name for name, verdicts in empty.items() if any(v is not None for v in verdicts)
        )

    def answer_together(self, batch_size: int) -> None:
        self._answering = replace(self._answering, batch_size=batch_size)
        self.batches = -(-2 * len(self._triplets) // batch_size)

    def __call__(self, batch_done: Callable[[], None]) -> dict[str, float]:
        """Returns each metric's share; NaN where no answer has a verdict."""
        prompts = [
            triplet.prompt(member)
            for member in ("benign", "injection")
            for triplet in self._triplets
        ]
        reported = 0

        def progress(done: int, total: int) -> None:
            nonlocal reported
            while reported < done * self.batches // total:
                reported += 1
                batch_done()

        answers = answer_prompts(self._answering, prompts, progress=progress)
        verdicts = self._verdicts([answer.text for answer in answers])
        half = len(self._triplets)
        of_member: dict[AnsweredMember, Sequence[Answer | None]] = {
            "benign": answers[:half],
            "injection": answers[half:],
            "obeying": [None] * half,
        }
        self._latest = Judged(of_member, verdicts)
        return {name: _share(verdicts[name]) for name in self.metrics}

    def rows(self) -> list[dict[str, Any]]:
        return generation_rows(self._triplets, self._latest, None) if self._latest else []

    def _verdicts(self, texts: Sequence[str]) -> Verdicts:
        half = len(self._triplets)
        # A pattern in the data that takes too long must not end a training run.
        verdicts = judge(self._triplets, texts[:half], texts[half:], tolerant=True)
        return {name: verdicts[name] for name in PROBE_METRICS}


def choose_triplets_to_probe(
    triplets: Sequence[Triplet], count: int, fits: Callable[[Triplet], bool]
) -> list[Triplet]:
    """Chooses up to `count` triplets, evenly over attack families, then over categories.

    The choice depends on the triplets alone, so runs on the same data are compared on the same
    prompts. Triplets with a verifiable attack and an answer check come first, then triplets with
    one of the two. `fits` says whether a triplet's prompts can be answered.
    """
    empty = [""] * len(triplets)
    verdicts = judge(triplets, empty, empty, tolerant=True)
    pairs = zip(verdicts["attack_success_rate"], verdicts["utility"], strict=True)
    gives = [sum(verdict is not None for verdict in pair) for pair in pairs]
    chosen: list[Triplet] = []
    for wanted in (2, 1):
        able = [t for t, count in zip(triplets, gives, strict=True) if count == wanted]
        for triplet in _spread(able):
            if len(chosen) == count:
                return chosen
            if fits(triplet):
                chosen.append(triplet)
    return chosen


def _spread(triplets: Sequence[Triplet]) -> Iterator[Triplet]:
    rng = random.Random("llmcausal:probe")
    families: dict[str, list[Triplet]] = {}
    for triplet in rng.sample(triplets, len(triplets)):
        families.setdefault(triplet.attack.family if triplet.attack else "", []).append(triplet)
    used: Counter[str] = Counter()
    while families:
        for family in sorted(families):
            # min() takes the first of equals, which the sample above makes a random one.
            triplet = min(families[family], key=lambda each: used[each.category])
            families[family].remove(triplet)
            used[triplet.category] += 1
            yield triplet
            if not families[family]:
                del families[family]


def _share(verdicts: Sequence[Verdict]) -> float:
    known = [verdict for verdict in verdicts if verdict is not None]
    return sum(known) / len(known) if known else float("nan")
