"""Callbacks: they watch and report; none changes a step."""

from __future__ import annotations

from llmcausal.registry import Table

_HERE = "llmcausal.train.callbacks"

CALLBACKS = Table(
    "callback",
    {
        "learning_rate_monitor": _HERE + ".monitors:LearningRateMonitor",
        "memory_monitor": _HERE + ".monitors:MemoryMonitor",
        "causal_metrics": _HERE + ".monitors:CausalMetrics",
        "model_checkpoint": _HERE + ".model_checkpoint:ModelCheckpoint",
        "metrics_log": _HERE + ".metrics_log:MetricsLog",
        "early_stopping": _HERE + ".early_stopping:EarlyStopping",
        "tracking": _HERE + ".tracking:Tracking",
    },
)
