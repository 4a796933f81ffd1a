"""Where test triplets come from. A suite is a function of the data section."""

from __future__ import annotations

from llmcausal.registry import Table

SUITES = Table(
    "evaluation suite",
    {
        "builtin": "llmcausal.evaluation.suites.builtin:triplets",
        "file": "llmcausal.evaluation.suites.file:triplets",
    },
)
