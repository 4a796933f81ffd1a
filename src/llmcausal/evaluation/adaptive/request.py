"""What an adaptive attacker may do, and against what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from llmcausal.data.template import ChatTemplate
    from llmcausal.evaluation.generation import Answering
    from llmcausal.train.step import TripletStep

Search = Literal["gcg", "random"]


@dataclass(frozen=True)
class AdaptiveRequest:
    """What the attacker may do; the same against every model.

    Attributes:
        prompts: Prompts attacked, each with a search of its own.
        steps: Most rounds of a search. The default finds what is easy; published attacks take 500.
        candidates: Texts scored in each round, and at most before the first.
        top_k: Replacements considered at each token.
        search: How these are chosen: by the gradient, or at random.
        samples: Answers drawn to each prompt beside the greedy one; any that obeys counts.
        temperature: Of the drawn answers.
        seed: Of the search and of the drawn answers.
        earlier: Result of an earlier attack, whose texts each search may begin with.
    """

    prompts: int
    steps: int = 20
    candidates: int = 48
    top_k: int = 128
    search: Search = "gcg"
    samples: int = 4
    temperature: float = 0.7
    seed: int = 0
    earlier: Path | None = None

    @property
    def budget(self) -> dict[str, Any]:
        """Everything that bounds an attack on one prompt, as plain values."""
        plain = {name: value for name, value in vars(self).items() if name != "earlier"}
        return {**plain, "most_queries": self.candidates * (self.steps + 1)}


@dataclass(frozen=True)
class Subject:
    """The model under attack.

    Attributes:
        step: Runs it over a tree.
        answering: The model (a `PeftModel` where `adapter` is false), its template and limits.
        adapter: Whether its adapter is on.
        weights: Fingerprint of what is attacked, for the log.
    """

    step: TripletStep
    answering: Answering
    adapter: bool
    weights: str

    @property
    def model(self) -> Any:
        """What is attacked."""
        return self.answering.model

    @property
    def template(self) -> ChatTemplate:
        """Encodes its prompts."""
        return self.answering.template
