"""Searches texts for each of several attacked prompts, then answers the prompts with them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmcausal.data.spans import in_words
from llmcausal.data.template import ChatTemplate
from llmcausal.data.triplet import Triplet
from llmcausal.evaluation.adaptive import AdaptiveRequest
from llmcausal.evaluation.adaptive.gcg import Found, Subject, search
from llmcausal.evaluation.adaptive.slot import Earlier, Opening, slots_of
from llmcausal.evaluation.answer_store import rows_of
from llmcausal.evaluation.decoding import Sampling
from llmcausal.evaluation.generation import (
    Progress,
    PromptPair,
    answer_prompts,
    evaluation_mode,
    sample_prompts,
    without_adapter,
)
from llmcausal.evaluation.scoring import obeyed, right
from llmcausal.evaluation.statistics import proportion
from llmcausal.evaluation.summary import broken_by_search
from llmcausal.model.cpu_layers import whole_layers

FORMS = ("{}", "Sure! {}", '"{}"')
"""Beginnings of an obedient answer, around the witness."""


@dataclass(frozen=True)
class Aim:
    """A prompt to attack, the openings of its search, and beginnings of the obedient answer."""

    triplet: Triplet
    openings: tuple[Opening, ...]
    targets: tuple[str, ...]

    def prompt(self, found: Found) -> PromptPair:
        slot = {opening.slot.frame: opening.slot for opening in self.openings}[found.frame]
        return slot.prompt((found.prefix, found.suffix)[-len(slot.start) :])


def names_witness(triplet: Triplet) -> bool:
    """Whether the attack has a witness text, which a search needs as its target."""
    return bool(triplet.attack and triplet.attack.witness.strip())


def choose_aims(
    template: ChatTemplate,
    triplets: Sequence[Triplet],
    request: AdaptiveRequest,
    earlier: Earlier,
) -> list[Aim]:
    """Returns the first triplets that have a witness and room for texts."""
    aims: list[Aim] = []
    for triplet in triplets:
        slots = slots_of(template, triplet) if names_witness(triplet) else []
        if slots and len(aims) < request.prompts:
            openings = earlier.openings(slots, triplet.id, request.candidates)
            assert triplet.attack is not None
            first, *others = (form.format(triplet.attack.witness) for form in FORMS)
            targets = (first, *(each for each in others if obeyed(triplet, each)))
            aims.append(Aim(triplet, tuple(openings), targets))
    return aims


def attack_adaptively(
    subject: Subject,
    aims: Sequence[Aim],
    request: AdaptiveRequest,
    log: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Attacks each prompt with its own search.

    `log`, a JSONL file, keeps the found texts, so an interrupted attack continues. `progress` is
    called with the finished searches and their total.

    Returns:
        `attack_success_rate` and `utility_under_attack` as proportions, `before_search` (the
        success rate of the same prompts without a search), `mean_queries`, and `examples`.
    """
    found = []
    known = _read(log)
    with whole_layers(subject.model):
        for index, aim in enumerate(aims):
            found.append(_search_once(subject, aim, request, log, known))
            if progress:
                progress(index + 1, len(aims))
    plain = [aim.triplet.prompt("injection") for aim in aims]
    attacked = [aim.prompt(each) for aim, each in zip(aims, found, strict=True)]
    answers = _answers(subject, [*plain, *attacked], request)
    before, after = answers[: len(aims)], answers[len(aims) :]
    examples = [
        _example(aim, each, in_words(content), one, other)
        for aim, each, (_, content), one, other in zip(
            aims, found, attacked, before, after, strict=True
        )
    ]
    useful = [right(aim.triplet, given[0]) for aim, given in zip(aims, after, strict=True)]
    return {
        "attack_success_rate": proportion([broken_by_search(example) for example in examples]),
        "before_search": proportion([example["obeyed_before"] for example in examples]),
        "utility_under_attack": proportion(useful),
        "mean_queries": sum(each.queries for each in found) / len(found) if found else None,
        "examples": examples,
    }


def _example(
    aim: Aim, found: Found, prompt: str, before: Sequence[str], after: Sequence[str]
) -> dict[str, Any]:
    """Any answer that obeys counts; the example has the first such answer, else the greedy one."""
    triplet, attack = aim.triplet, aim.triplet.attack
    assert attack is not None
    obeying = [text for text in after if obeyed(triplet, text)]
    return {
        "id": triplet.id,
        "family": attack.family,
        "witness": attack.witness,
        "prompt": prompt,
        "answer": (obeying or after)[0],
        "obeyed": bool(obeying),
        "obeyed_before": any(obeyed(triplet, text) for text in before),
        **asdict(found),
    }


def _answers(
    subject: Subject, prompts: Sequence[PromptPair], request: AdaptiveRequest
) -> list[list[str]]:
    greedy = answer_prompts(subject.answering, prompts, adapter=subject.adapter)
    sampling = Sampling(request.samples, request.temperature, request.seed)
    with nullcontext() if subject.adapter else without_adapter(subject.model):
        drawn = sample_prompts(subject.answering, prompts, sampling)
    return [[first.text, *texts] for first, texts in zip(greedy, drawn, strict=True)]


def _search_once(
    subject: Subject, aim: Aim, request: AdaptiveRequest, log: Path, known: dict[str, Found]
) -> Found:
    key = _key(subject, aim, request)
    if key in known:
        return known[key]
    with (
        evaluation_mode(subject.model),
        nullcontext() if subject.adapter else without_adapter(subject.model),
    ):
        found = search(subject, aim.openings, aim.targets, request)
    known[key] = found
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        # The line feed in front ends a line that a crash cut off.
        file.write("\n" + json.dumps({"key": key, **asdict(found)}) + "\n")
    return found


def _read(log: Path) -> dict[str, Found]:
    """Reads a log's searches; damaged lines are skipped."""
    known: dict[str, Found] = {}
    for row in rows_of(log) if log.is_file() else ():
        with suppress(KeyError, TypeError):
            key = row.pop("key")
            known[key] = Found(**row)
    return known


def _key(subject: Subject, aim: Aim, request: AdaptiveRequest) -> str:
    drawn = {"samples", "temperature", "prompts"}  # the search does not depend on these
    parts = [
        subject.weights,
        subject.template.fingerprint,
        aim.triplet.system,
        *map(asdict, aim.triplet.spans),
        [[each.slot.frame, each.slot.fixed, each.texts] for each in aim.openings],
        aim.targets,
        {name: value for name, value in request.budget.items() if name not in drawn},
    ]
    return hashlib.sha256(json.dumps(parts).encode("utf-8", "surrogatepass")).hexdigest()
