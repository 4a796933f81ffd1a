"""Another harmless input for the same task, made from a plain example."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from llmcausal.data.sources.example import SourceExample, Unusable
from llmcausal.data.sources.rephrasing import rephrase
from llmcausal.data.sources.slots import edit_slots

CounterfactualKind = Literal["other_input", "slot_edit", "rephrase", "model"]


@dataclass(frozen=True)
class Counterpart:
    """The counterfactual of an example.

    Attributes:
        document: Its text.
        question: Its question.
        response: Right answer, where known.
    """

    document: str
    question: str
    response: str | None


class Counterfactuals:
    """Draws counterfactuals of one kind."""

    def __init__(
        self,
        kind: CounterfactualKind,
        examples: Sequence[SourceExample],
        rewritings: Mapping[str, str] | None = None,
    ) -> None:
        """Takes all examples, and the documents that a model wrote for them, by their ids."""
        self._kind = kind
        self._rewritings = rewritings or {}
        self._same_task: dict[tuple[str, str], list[SourceExample]] = {}
        self._same_system: dict[str, list[SourceExample]] = {}
        for example in examples:
            self._same_task.setdefault((example.system, example.question), []).append(example)
            self._same_system.setdefault(example.system, []).append(example)

    def draw(self, example: SourceExample, rng: random.Random) -> Counterpart:
        """Returns a counterfactual of `example`.

        Raises:
            Unusable: If it has none of this kind.
        """
        if self._kind == "other_input":
            return self._other_input(example, rng)
        if self._kind == "slot_edit":
            edited = edit_slots((example.document, example.question), example.response, rng)
            if edited is None:
                reason = "it holds no number, date or first name to edit"
                raise Unusable(f"document: {reason} for --counterfactual slot_edit")
            (document, question), response = edited
            return Counterpart(document, question, response)
        if self._kind == "model":
            return Counterpart(self._rewritings[example.id], example.question, example.response)
        return Counterpart(rephrase(example.document, rng), example.question, example.response)

    def _other_input(self, example: SourceExample, rng: random.Random) -> Counterpart:
        """Draws an example of the same question if there is one, else of the same system."""
        for group in (
            self._same_task[example.system, example.question],
            self._same_system[example.system],
        ):
            others = [other for other in group if other.document != example.document]
            if others:
                other = rng.choice(others)
                known = other.response if other.context == example.context else None
                return Counterpart(other.document, other.question, known)
        raise Unusable(
            "system: no other input has the same system prompt; use --counterfactual rephrase"
        )
