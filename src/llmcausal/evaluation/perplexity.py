"""Perplexity of the right answers: a defence that resists by babbling shows here."""

from __future__ import annotations

from llmcausal.evaluation import statistics
from llmcausal.evaluation.forward import Readings
from llmcausal.evaluation.statistics import Figure
from llmcausal.train.batch import Term

TERM_OF: dict[str, Term] = {"perplexity": "task", "perplexity_under_attack": "robust"}
"""Each figure, and the loss term whose answers it is measured on."""


def perplexity_figures(measured: Readings) -> dict[str, Figure]:
    """Returns `perplexity` (after benign prompts) and `perplexity_under_attack`."""
    return {
        name: statistics.perplexity(measured.losses[term], measured.tokens[term])
        for name, term in TERM_OF.items()
    }
