"""Runs of tree nodes, joined out of tensors of all nodes and added back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llmcausal.data.attention_blocks import Run


def join_runs(states: Tensor, runs: Sequence[Run]) -> Tensor:
    """Returns the nodes of the runs out of [1, heads, nodes, width]; one run is not copied."""
    parts = [states[:, :, start:end] for start, end in runs]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def add_runs(total: Tensor, gradient: Tensor, runs: Sequence[Run]) -> None:
    """Adds the gradient of what `join_runs` returned to that of all nodes, in place."""
    parts = gradient.split([end - start for start, end in runs], dim=2)
    for (start, end), part in zip(runs, parts, strict=True):
        total[:, :, start:end] += part
