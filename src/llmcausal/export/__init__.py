"""Export targets. Each is a function of an `ExportSource` and the folder to write."""

from __future__ import annotations

from llmcausal.registry import Table

EXPORTERS = Table(
    "export format",
    {
        "adapter": "llmcausal.export.adapter:export_adapter",
        "merged": "llmcausal.export.merged:export_merged",
    },
)
