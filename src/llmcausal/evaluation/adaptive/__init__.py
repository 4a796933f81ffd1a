"""Attacks that adapt to the model under test, so a report does not rest on fixed wordings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Search = Literal["gcg", "random"]


@dataclass(frozen=True)
class AdaptiveRequest:
    """The attacker's budget, the same against every model.

    Attributes:
        prompts: Attacked prompts, each with its own search.
        steps: Maximum rounds of a search. The default finds easy attacks; published attacks take
            500 steps.
        candidates: Texts scored in each round, and the maximum before the first.
        top_k: Replacements considered for each token.
        search: Whether the gradient or chance chooses the replacements.
        samples: Answers drawn to each prompt besides the greedy one; any that obeys counts.
        temperature: Temperature of the drawn answers.
        seed: Seed of the search and of the drawn answers.
        earlier: An earlier attack's result; each search may begin with its texts.
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
        """Every limit of an attack on one prompt, as plain values."""
        plain = {name: value for name, value in vars(self).items() if name != "earlier"}
        return {**plain, "most_queries": self.candidates * (self.steps + 1)}
