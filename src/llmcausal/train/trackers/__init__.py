"""Trackers of a run: one file each. All run on threads of their own; see `callbacks.tracking`."""

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
