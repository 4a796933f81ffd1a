"""Optimizer, schedule and loss scaler."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from llmcausal.config import TrainSection
from llmcausal.launched import windows_driver


def build_optimizer(
    section: TrainSection, groups: Mapping[str, Sequence[torch.nn.Parameter]]
) -> Optimizer:
    """Builds AdamW over named parameter groups.

    `paged_adamw_8bit` pages its states to host memory on CUDA, except under the Windows driver
    (also in WSL): there bitsandbytes ends the process if managed memory fails (its issue 726).
    Paging does not change the update.
    """
    rates = {"projection": section.projection_learning_rate or section.learning_rate}
    parameters = [
        {"params": list(members), "name": name, "lr": rates.get(name, section.learning_rate)}
        for name, members in groups.items()
        if members
    ]
    options = {"betas": section.betas, "weight_decay": section.weight_decay}
    if section.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **options)  # type: ignore[arg-type]
    import bitsandbytes as bnb

    paged = section.optimizer == "paged_adamw_8bit" and not windows_driver()
    kind = bnb.optim.PagedAdamW8bit if paged else bnb.optim.AdamW8bit
    optimizer: Optimizer = kind(parameters, **options)
    return optimizer


def optimizer_step(optimizer: Optimizer, scaler: torch.amp.GradScaler | None = None) -> None:
    """Updates the weights, unless the scaler found a gradient that overflowed."""
    with _unpaged_on_cpu():
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()


def load_optimizer(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Loads saved states, into paged memory where the optimizer pages.

    bitsandbytes itself loads plain tensors on the device: the resumed run would need more memory
    than the run before.
    """
    optimizer.load_state_dict(saved)
    if not getattr(optimizer, "is_paged", False):
        return
    with _unpaged_on_cpu():
        for parameter, state in optimizer.state.items():
            for name in state.keys() & {"state1", "state2"}:
                buffer = optimizer.get_state_buffer(parameter, dtype=state[name].dtype)  # type: ignore[attr-defined]
                state[name] = buffer.copy_(state[name])


@contextmanager
def _unpaged_on_cpu() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")
        yield


def build_scheduler(section: TrainSection, optimizer: Optimizer, total_steps: int) -> LRScheduler:
    from transformers import get_scheduler

    warmup = round(section.warmup_ratio * total_steps)
    scheduler: LRScheduler = get_scheduler(
        section.scheduler, optimizer, num_warmup_steps=warmup, num_training_steps=total_steps
    )
    return scheduler


def build_scaler(dtype: torch.dtype, device: torch.device) -> torch.amp.GradScaler:
    """Builds the loss scaler, which scales in fp16 only."""
    return torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
