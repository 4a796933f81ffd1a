"""Searches a suffix for each of several attacked prompts, and answers what was found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcausal.data.triplet import Triplet
from llmcausal.evaluation.adaptive.gcg import Found, SearchBudget, search
from llmcausal.evaluation.adaptive.slot import START, PromptSlot
from llmcausal.evaluation.generation import (
    Answering,
    answer_prompts,
    evaluation_mode,
    without_adapter,
)
from llmcausal.evaluation.scoring import obeyed, right
from llmcausal.evaluation.statistics import proportion
from llmcausal.model.cpu.door import whole_layers

if TYPE_CHECKING:
    from llmcausal.data.template import ChatTemplate
    from llmcausal.train.step import TripletStep

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Subject:
    """The model under attack.

    Attributes:
        step: Runs it over a tree.
        model: The model, a `PeftModel` where `adapter` is false.
        template: Encodes its prompts.
        adapter: Whether its adapter is on.
        weights: Fingerprint of what is attacked, for the log.
    """

    step: TripletStep
    model: Any
    template: ChatTemplate
    adapter: bool
    weights: str


def names_witness(triplet: Triplet) -> bool:
    """Whether the attack has a witness text, which a search needs as its target."""
    return bool(triplet.attack and triplet.attack.witness.strip())


def choose_targets(
    template: ChatTemplate, triplets: Sequence[Triplet], count: int
) -> list[Triplet]:
    """The first triplets whose attack has a witness to search for, and a prompt room for it."""
    usable = (
        triplet
        for triplet in triplets
        if names_witness(triplet) and PromptSlot.of(template, triplet).takes(START)
    )
    return list(islice(usable, count))


def attack_adaptively(
    subject: Subject,
    triplets: Sequence[Triplet],
    *,
    budget: SearchBudget,
    seed: int,
    max_new_tokens: int,
    batch_size: int,
    log: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Attacks each triplet's injected prompt with a search of its own.

    A found suffix stays in `log`, so that an interrupted attack goes on where it stopped.

    Args:
        subject: What is attacked.
        triplets: Each with a witness (`choose_targets`).
        budget: Of each search.
        seed: Of each search.
        max_new_tokens: Longest answer, in tokens.
        batch_size: Prompts answered together.
        log: JSONL file of found suffixes; made if absent.
        progress: Told (searches done, in all).

    Returns:
        `attack_success_rate` and `utility_under_attack` as proportions, `before_search` (the
        success rate of the same prompts without a suffix), `mean_queries`, and `examples`.
    """
    found = []
    known = _read(log)
    with whole_layers(subject.model):
        for index, triplet in enumerate(triplets):
            found.append(_search_once(subject, triplet, budget, seed, log, known))
            if progress:
                progress(index + 1, len(triplets))
    plain = [(t.system, t.user_text("injection")) for t in triplets]
    attacked = [
        (t.system, PromptSlot.of(subject.template, t).user_text(f.suffix))
        for t, f in zip(triplets, found, strict=True)
    ]
    answering = Answering(subject.model, subject.template, max_new_tokens, batch_size)
    answers = answer_prompts(answering, [*plain, *attacked], adapter=subject.adapter)
    texts = [answer.text for answer in answers]
    return _result(triplets, found, attacked, texts[: len(plain)], texts[len(plain) :])


def _result(
    triplets: Sequence[Triplet],
    found: Sequence[Found],
    attacked: Sequence[tuple[str, str]],
    before: Sequence[str],
    after: Sequence[str],
) -> dict[str, Any]:
    plain_obeyed = [obeyed(t, text) for t, text in zip(triplets, before, strict=True)]
    suffix_obeyed = [obeyed(t, text) for t, text in zip(triplets, after, strict=True)]
    # The attacker keeps the plain prompt where that already works.
    success = [bool(p) or bool(s) for p, s in zip(plain_obeyed, suffix_obeyed, strict=True)]
    examples = [
        {
            "id": triplet.id,
            "family": triplet.attack.family if triplet.attack else "",
            "witness": triplet.attack.witness if triplet.attack else "",
            "prompt": prompt,
            "answer": text,
            "obeyed": verdict,
            "obeyed_before": earlier,
            **asdict(result),
        }
        for triplet, (_, prompt), text, verdict, earlier, result in zip(
            triplets, attacked, after, suffix_obeyed, plain_obeyed, found, strict=True
        )
    ]
    return {
        "attack_success_rate": proportion(success),
        "before_search": proportion(plain_obeyed),
        "utility_under_attack": proportion(
            [right(t, text) for t, text in zip(triplets, after, strict=True)]
        ),
        "mean_queries": sum(f.queries for f in found) / len(found) if found else None,
        "examples": examples,
    }


def _search_once(
    subject: Subject,
    triplet: Triplet,
    budget: SearchBudget,
    seed: int,
    log: Path,
    known: dict[str, Found],
) -> Found:
    key = _key(subject, triplet, budget, seed)
    if key in known:
        return known[key]
    assert triplet.attack is not None
    with ExitStack() as stack:
        stack.enter_context(evaluation_mode(subject.model))
        if not subject.adapter:
            stack.enter_context(without_adapter(subject.model))
        found = search(
            subject.step,
            subject.model,
            PromptSlot.of(subject.template, triplet),
            triplet.attack.witness,
            budget=budget,
            seed=seed,
        )
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


def _key(subject: Subject, triplet: Triplet, budget: SearchBudget, seed: int) -> str:
    parts = [
        subject.weights,
        subject.template.fingerprint,
        triplet.system,
        triplet.user_text("injection"),
        triplet.attack.witness if triplet.attack else "",
        str(asdict(budget)),
        str(seed),
    ]
    return hashlib.sha256(json.dumps(parts).encode("utf-8", "surrogatepass")).hexdigest()
