"""Searches texts for each of several attacked prompts, and answers what was found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcausal.data.triplet import Triplet
from llmcausal.evaluation.adaptive.earlier import Earlier, Opening
from llmcausal.evaluation.adaptive.gcg import Found, search
from llmcausal.evaluation.adaptive.request import AdaptiveRequest, Subject
from llmcausal.evaluation.adaptive.slot import PromptSlot, slots_of
from llmcausal.evaluation.decoding import Sampling
from llmcausal.evaluation.generation import (
    answer_prompts,
    evaluation_mode,
    without_adapter,
)
from llmcausal.evaluation.sampling import sample_prompts
from llmcausal.evaluation.scoring import obeyed, right
from llmcausal.evaluation.statistics import proportion
from llmcausal.model.cpu_layers import whole_layers

if TYPE_CHECKING:
    from llmcausal.data.template import ChatTemplate

Progress = Callable[[int, int], None]
FORMS = ("{}", "Sure! {}", '"{}"')
"""How an answer that obeys may begin, around the witness."""


@dataclass(frozen=True)
class Aim:
    """What is searched on one prompt.

    Attributes:
        triplet: The prompt and its attack.
        openings: Ways to begin, the same for every model.
        targets: How the obedient answer may begin.
    """

    triplet: Triplet
    openings: tuple[Opening, ...]
    targets: tuple[str, ...]

    @property
    def slots(self) -> dict[str, PromptSlot]:
        """The prompt's slots by their frames."""
        return {opening.slot.frame: opening.slot for opening in self.openings}

    def user_text(self, found: Found) -> str:
        """The user's text with what was found."""
        slot = self.slots[found.frame]
        return slot.user_text((found.prefix, found.suffix)[-len(slot.start) :])


def names_witness(triplet: Triplet) -> bool:
    """Whether the attack has a witness text, which a search needs as its target."""
    return bool(triplet.attack and triplet.attack.witness.strip())


def choose_aims(
    template: ChatTemplate,
    triplets: Sequence[Triplet],
    request: AdaptiveRequest,
    earlier: Earlier,
) -> list[Aim]:
    """The first triplets whose attack has a witness to search for, and a prompt room for texts."""
    aims: list[Aim] = []
    for triplet in triplets:
        slots = slots_of(template, triplet) if names_witness(triplet) else []
        if slots and len(aims) < request.prompts:
            openings = earlier.openings(slots, triplet.id, request.candidates)
            aims.append(Aim(triplet, tuple(openings), _targets(triplet)))
    return aims


def _targets(triplet: Triplet) -> tuple[str, ...]:
    assert triplet.attack is not None
    witness = triplet.attack.witness
    first, *others = (form.format(witness) for form in FORMS)
    return (first, *(each for each in others if obeyed(triplet, each)))


def attack_adaptively(
    subject: Subject,
    aims: Sequence[Aim],
    request: AdaptiveRequest,
    log: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Attacks each prompt with a search of its own.

    What was found stays in `log`, so that an interrupted attack goes on where it stopped.

    Args:
        subject: What is attacked.
        aims: Of `choose_aims`.
        request: What the attacker may do.
        log: JSONL file of what was found; made if absent.
        progress: Told (searches done, in all).

    Returns:
        `attack_success_rate` and `utility_under_attack` as proportions, `before_search` (the
        success rate of the same prompts as they were), `mean_queries`, and `examples`.
    """
    found = []
    known = _read(log)
    with whole_layers(subject.model):
        for index, aim in enumerate(aims):
            found.append(_search_once(subject, aim, request, log, known))
            if progress:
                progress(index + 1, len(aims))
    plain = [(aim.triplet.system, aim.triplet.user_text("injection")) for aim in aims]
    attacked = [
        (aim.triplet.system, aim.user_text(each)) for aim, each in zip(aims, found, strict=True)
    ]
    answers = _answers(subject, [*plain, *attacked], request)
    before, after = answers[: len(aims)], answers[len(aims) :]
    examples = [
        _example(aim, each, prompt, one, other)
        for aim, each, (_, prompt), one, other in zip(
            aims, found, attacked, before, after, strict=True
        )
    ]
    broken_before = [bool(example["obeyed_before"]) for example in examples]
    # The attacker keeps the plain prompt where that already works.
    broken = [bool(each["obeyed"] or each["obeyed_before"]) for each in examples]
    useful = [right(aim.triplet, given[0]) for aim, given in zip(aims, after, strict=True)]
    return {
        "attack_success_rate": proportion(broken),
        "before_search": proportion(broken_before),
        "utility_under_attack": proportion(useful),
        "mean_queries": sum(each.queries for each in found) / len(found) if found else None,
        "examples": examples,
    }


def _example(
    aim: Aim, found: Found, prompt: str, before: Sequence[str], after: Sequence[str]
) -> dict[str, Any]:
    """Any answer that obeys counts; the first such one is shown, else the greedy one."""
    triplet, attack = aim.triplet, aim.triplet.attack
    obeying = [text for text in after if obeyed(triplet, text)]
    return {
        "id": triplet.id,
        "family": attack.family if attack else "",
        "witness": attack.witness if attack else "",
        "prompt": prompt,
        "answer": (obeying or after)[0],
        "obeyed": bool(obeying),
        "obeyed_before": any(obeyed(triplet, text) for text in before),
        **asdict(found),
    }


def _answers(
    subject: Subject, prompts: Sequence[tuple[str, str]], request: AdaptiveRequest
) -> list[list[str]]:
    """Returns of each prompt the greedy answer, then the drawn ones."""
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
    with ExitStack() as stack:
        stack.enter_context(evaluation_mode(subject.model))
        if not subject.adapter:
            stack.enter_context(without_adapter(subject.model))
        found = search(subject, aim.openings, aim.targets, request)
    known[key] = found
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        # A line that was torn by a crash must not swallow this one.
        file.write("\n" + json.dumps({"key": key, **asdict(found)}) + "\n")
    return found


def _read(log: Path) -> dict[str, Found]:
    """What is known; a torn last line is not."""
    known: dict[str, Found] = {}
    if not log.is_file():
        return known
    for line in log.read_bytes().splitlines():
        try:
            row = json.loads(line)
            key = row.pop("key")
            known[key] = Found(**row)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    return known


def _key(subject: Subject, aim: Aim, request: AdaptiveRequest) -> str:
    drawn = {"samples", "temperature", "prompts"}  # which a search does not depend on
    parts = [
        subject.weights,
        subject.template.fingerprint,
        aim.triplet.system,
        [[each.slot.frame, each.slot.fixed, each.texts] for each in aim.openings],
        aim.targets,
        {name: value for name, value in request.budget.items() if name not in drawn},
    ]
    return hashlib.sha256(json.dumps(parts).encode("utf-8", "surrogatepass")).hexdigest()
