"""Tasks of the built-in generator as data: one file per theme, each scenario in one split."""

from __future__ import annotations

from llmcausal.registry import Table

THEMES = Table(
    "scenario theme",
    {
        name: f"llmcausal.data.scenarios.{name}:SCENARIOS"
        for name in (
            "email",
            "documents",
            "passages",
            "calendar",
            "tables",
            "support",
            "code",
            "reviews",
            "travel",
        )
    },
)
