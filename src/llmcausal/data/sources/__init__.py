"""Readers of plain examples, by the source's name."""

from __future__ import annotations

from llmcausal.registry import Table

SOURCES = Table(
    "data source",
    {
        "alpaca": "llmcausal.data.sources.tables:read_alpaca",
        "bipia": "llmcausal.data.sources.questions:read_bipia",
        "chat": "llmcausal.data.sources.chat:read",
        "csv": "llmcausal.data.sources.tables:read_csv_table",
        "jsonl": "llmcausal.data.sources.tables:read_json_table",
        "squad": "llmcausal.data.sources.questions:read_squad",
    },
)
"""Each is a function of path, request and left_out that yields examples; see `example.Source`."""
