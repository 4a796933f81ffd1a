"""Export targets: functions of an `ExportSource`, the folder to write and `ExportOptions`."""

from __future__ import annotations

from llmcausal.registry import Table

EXPORTERS = Table(
    "export format",
    {
        "adapter": "llmcausal.export.adapter:export_adapter",
        "merged": "llmcausal.export.merged:export_merged",
        "gguf": "llmcausal.export.gguf:export_gguf",
        "ollama": "llmcausal.export.gguf:export_ollama",
    },
)
