"""Trackers: one file each. Each runs on its own thread; see `callbacks.tracking`."""

from __future__ import annotations

from llmcausal.registry import Table

_HERE = "llmcausal.train.trackers"

TRACKERS = Table(
    "tracker",
    {
        "wandb": _HERE + ".wandb:Wandb",
        "tensorboard": _HERE + ".tensorboard:TensorBoard",
        "mlflow": _HERE + ".mlflow:Mlflow",
    },
)
