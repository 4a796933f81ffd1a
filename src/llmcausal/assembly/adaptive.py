"""The adaptive attack of `eval`: on the tuned model, and on what it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmcausal.assembly.comparison import Other
from llmcausal.config import RunConfig
from llmcausal.data.template import ChatTemplate
from llmcausal.data.triplet import Triplet
from llmcausal.errors import UsageError
from llmcausal.evaluation.adaptive import AdaptiveRequest
from llmcausal.evaluation.adaptive.attack import attack_adaptively, choose_aims, names_witness
from llmcausal.evaluation.adaptive.gcg import Subject
from llmcausal.evaluation.adaptive.slot import Earlier
from llmcausal.evaluation.answer_store import weights_fingerprint
from llmcausal.evaluation.generation import Answering
from llmcausal.evaluation.summary import is_headline
from llmcausal.train.step import TripletStep
from llmcausal.ui.console import ProgressLine

LOG = "adaptive.jsonl"


@dataclass(frozen=True)
class Parts:
    """What an evaluation works with.

    Attributes:
        model: The tuned model.
        template: Renders prompts.
        step: Runs the model over trees.
        other: What the tuned model is compared with in place of its base.
    """

    model: Any
    template: ChatTemplate
    step: TripletStep
    other: Other | None


def check_searchable(triplets: Sequence[Triplet], suite: str, request: AdaptiveRequest) -> None:
    """Refuses what the search cannot begin with, before anything is computed.

    Raises:
        UsageError: If no triplet names a witness, or the earlier result cannot be used.
    """
    if request.earlier is not None:
        Earlier.read(request.earlier)
    if not any(is_headline(t) and names_witness(t) for t in triplets):
        raise UsageError(
            f"--adaptive searches for a witness text, and no attack in the suite {suite!r} names "
            "one: drop --adaptive, or choose a suite that names them, such as builtin"
        )


def add_adaptive_attack(
    config: RunConfig,
    parts: Parts,
    triplets: Sequence[Triplet],
    result: dict[str, Any],
    request: AdaptiveRequest,
    folder: Path,
) -> None:
    """Searches texts against each side of a result, and adds what came of it as `adaptive`.

    Args:
        config: Settings.
        parts: The model and what goes with it.
        triplets: Those evaluated; the first with a witness are attacked.
        result: Of `evaluate_model`.
        request: What the attacker may do.
        folder: Where found texts are kept, so that an interrupted attack goes on.
    """
    earlier = Earlier.read(request.earlier) if request.earlier else Earlier()
    unusable = {item["id"] for item in result["skipped"]}
    usable = [t for t in triplets if is_headline(t) and t.id not in unusable]
    aims = choose_aims(parts.template, usable, request, earlier)
    if not aims:  # what was evaluated is worth keeping all the same
        result["notes"].append("No adaptive attack: no usable prompt has room for a text.")
        return
    adaptive: dict[str, Any] = {
        **request.budget,
        "prompts": len(aims),
        "earlier": str(request.earlier) if request.earlier else None,
        "earlier_finds": len(earlier.finds),
    }

    section = config.evaluation
    answering = Answering(parts.model, parts.template, section.max_new_tokens, section.batch_size)

    def attack(side: str, weights: AbstractContextManager[None], adapter: bool) -> None:
        with weights:
            fingerprint = weights_fingerprint(parts.model, adapter=adapter)
            subject = Subject(parts.step, answering, adapter, fingerprint)
            told = ProgressLine(f"adaptive attack, {side}")
            adaptive[side] = attack_adaptively(subject, aims, request, folder / LOG, told)

    attack("tuned", nullcontext(), True)
    other = parts.other
    if other and result["base"] is not None:
        attack("base", other.weights(), True)
    elif result["base"] is not None:
        attack("base", nullcontext(), False)
    result["adaptive"] = adaptive
