"""Readers of plain examples, one module per source."""

from __future__ import annotations

from llmcausal.registry import Table

SOURCES = Table(
    "data source",
    {
        "alpaca": "llmcausal.data.sources.alpaca:read",
        "bipia": "llmcausal.data.sources.bipia:read",
        "chat": "llmcausal.data.sources.chat:read",
        "csv": "llmcausal.data.sources.tables:read_csv_table",
        "jsonl": "llmcausal.data.sources.tables:read_json_table",
        "squad": "llmcausal.data.sources.squad:read",
    },
)
"""Each is a function of path, request and left_out that yields examples; see `example.Source`."""
