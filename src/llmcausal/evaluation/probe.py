"""The probe of a validation: attack success and utility in the text that the model writes now."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from llmcausal.data.triplet import Triplet
from llmcausal.errors import DataError
from llmcausal.evaluation.answer_rows import AnsweredMember, Side, generation_rows
from llmcausal.evaluation.generation import Answer, Answering, answer_prompts
from llmcausal.evaluation.scoring import obeyed, right
from llmcausal.evaluation.statistics import Verdict
from llmcausal.metrics import CORE

PROBE_METRICS = tuple(metric.name for metric in CORE)
Scorer = Callable[[Triplet, str], Verdict]


class AttackProbe:
    """Answers a few triplets' benign and attacked prompts greedily and scores the answers.

    Leaves the model, its modes and every random state as they were.

    Args:
        answering: The model in training, and how it answers.
        triplets: What is answered; the same at each validation.

    Attributes:
        batches: How often `batch_done` is called.
        metrics: The figures that these triplets can give.
    """

    def __init__(self, answering: Answering, triplets: Sequence[Triplet]) -> None:
        self._answering = answering
        self._triplets = list(triplets)
        self.answer_together(answering.batch_size)
        self._latest: Side | None = None
        empty = self._verdicts([""] * (2 * len(self._triplets)))
        self.metrics = tuple(
            name for name, verdicts in empty.items() if any(v is not None for v in verdicts)
        )

    def answer_together(self, batch_size: int) -> None:
        """Sets how many prompts are generated together."""
        self._answering = replace(self._answering, batch_size=batch_size)
        self.batches = -(-2 * len(self._triplets) // batch_size)

    def __call__(self, batch_done: Callable[[], None]) -> dict[str, float]:
        """Measures the model as it is now.

        Args:
            batch_done: Called `batches` times as answers are done.

        Returns:
            The share of each of `metrics`; NaN where no verdict could be reached.
        """
        prompts = [
            (triplet.system, triplet.user_text(member))
            for member in ("benign", "injection")
            for triplet in self._triplets
        ]
        told = 0

        def progress(done: int, total: int) -> None:
            nonlocal told
            while told < done * self.batches // total:
                told += 1
                batch_done()

        answers = answer_prompts(self._answering, prompts, progress=progress)
        verdicts = self._verdicts([answer.text for answer in answers])
        half = len(self._triplets)
        of_member: dict[AnsweredMember, Sequence[Answer | None]] = {
            "benign": answers[:half],
            "injection": answers[half:],
            "obeying": [None] * half,
        }
        self._latest = Side(of_member, verdicts)
        return {name: _share(verdicts[name]) for name in self.metrics}

    def rows(self) -> list[dict[str, Any]]:
        """Returns the latest answers with their verdicts, as rows of generations.jsonl."""
        return generation_rows(self._triplets, self._latest, None) if self._latest else []

    def _verdicts(self, texts: Sequence[str]) -> dict[str, list[Verdict]]:
        """Returns each figure's verdicts, one a triplet, on the benign and the attacked answers."""
        half = len(self._triplets)
        benign, attacked = texts[:half], texts[half:]
        asked: dict[str, tuple[Scorer, Sequence[str]]] = {
            "attack_success_rate": (obeyed, attacked),
            "utility": (right, benign),
            "utility_under_attack": (right, attacked),
        }
        return {
            name: [
                _verdict(scorer, triplet, answer)
                for triplet, answer in zip(self._triplets, answers, strict=True)
            ]
            for name, (scorer, answers) in asked.items()
        }


def choose_triplets_to_probe(
    triplets: Sequence[Triplet], count: int, fits: Callable[[Triplet], bool]
) -> list[Triplet]:
    """Chooses up to `count` triplets, evenly over attack families, then over categories.

    The choice depends on the triplets alone, so that runs on the same data are compared on the
    same prompts. Triplets without an attack that can be verified, or without an answer check,
    come after those that have both, and not at all if they have neither.

    Args:
        triplets: To choose from.
        count: At most so many.
        fits: Whether a triplet's prompts can be answered.
    """
    gives = {id(t): sum(_verdict(s, t, "") is not None for s in (obeyed, right)) for t in triplets}
    chosen: list[Triplet] = []
    for wanted in (2, 1):
        for triplet in _spread([t for t in triplets if gives[id(t)] == wanted]):
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
            # min() takes the first of equals, which is random by the sample above.
            triplet = min(families[family], key=lambda each: used[each.category])
            families[family].remove(triplet)
            used[triplet.category] += 1
            yield triplet
            if not families[family]:
                del families[family]


def _share(verdicts: Sequence[Verdict]) -> float:
    known = [verdict for verdict in verdicts if verdict is not None]
    return sum(known) / len(known) if known else float("nan")


def _verdict(scorer: Scorer, triplet: Triplet, answer: str) -> Verdict:
    """A pattern of the data that takes too long must not end a training run."""
    try:
        return scorer(triplet, answer)
    except DataError:
        return None
