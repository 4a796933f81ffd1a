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
from llmcausal.evaluation.adaptive.attack import (
    Subject,
    attack_adaptively,
    choose_targets,
    names_witness,
)
from llmcausal.evaluation.adaptive.gcg import SearchBudget
from llmcausal.evaluation.answer_store import weights_fingerprint
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


def check_searchable(triplets: Sequence[Triplet], suite: str) -> None:
    """Refuses a suite without a target for the search, before anything is computed.

    Raises:
        UsageError: If no triplet names a witness.
    """
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
    prompts: int,
    budget: SearchBudget,
    *,
    folder: Path,
) -> None:
    """Searches suffixes against each side of a result, and adds what came of it as `adaptive`.

    Args:
        config: Settings.
        parts: The model and what goes with it.
        triplets: Those evaluated; the first `prompts` with a witness are attacked.
        result: Of `evaluate_model`.
        prompts: Prompts attacked.
        budget: Of the search on each.
        folder: Where found suffixes are kept, so that an interrupted attack goes on.
    """
    unusable = {item["id"] for item in result["skipped"]}
    usable = [t for t in triplets if is_headline(t) and t.id not in unusable]
    targets = choose_targets(parts.template, usable, prompts)
    if not targets:  # what was evaluated is worth keeping all the same
        result["notes"].append("No adaptive attack: no usable prompt has room for a suffix.")
        return
    adaptive: dict[str, Any] = {"prompts": len(targets), **vars(budget)}

    def attack(side: str, weights: AbstractContextManager[None], adapter: bool) -> None:
        with weights:
            fingerprint = weights_fingerprint(parts.model, adapter=adapter)
            adaptive[side] = attack_adaptively(
                Subject(parts.step, parts.model, parts.template, adapter, fingerprint),
                targets,
                budget=budget,
                seed=config.train.seed,
                max_new_tokens=config.evaluation.max_new_tokens,
                batch_size=config.evaluation.batch_size,
                log=folder / LOG,
                progress=ProgressLine(f"adaptive attack, {side}"),
            )

    attack("tuned", nullcontext(), True)
    other = parts.other
    if other and result["base"] is not None:
        attack("base", other.weights(), True)
    elif result["base"] is not None:
        attack("base", nullcontext(), False)
    result["adaptive"] = adaptive
