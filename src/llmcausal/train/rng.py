"""Every random state that a run can draw from, so that a resumed one draws the same."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor


def rng_state() -> dict[str, Any]:
    """Captures the states as plain values and tensors (loadable with `weights_only`)."""
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (str(name), [*map(int, keys)], int(position), int(has_gauss), float(cached)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_rng(state: dict[str, Any]) -> None:
    """Takes over states captured by `rng_state`."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.asarray(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        for index, saved in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(saved, index)  # of a run that may have had more GPUs


def device_rng(device: torch.device) -> list[Tensor]:
    """Captures what torch draws from on the host and on a device."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def restore_device_rng(device: torch.device, states: list[Tensor]) -> None:
    """Takes over states captured by `device_rng` of the same device."""
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)


def seed_everything(seed: int) -> None:
    """Seeds every generator of a fresh run, and switches off kernels that add in no fixed order."""
    torch.backends.cuda.enable_cudnn_sdp(False)  # the others: `tree_attention.in_fixed_order`
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def seed_micro_batch(seed: int, step: int, place: int) -> None:
    """Seeds what torch draws, such as dropout, in the micro-batch at a place of a step.

    The draws are then the same whichever process computes it, and after which other one.
    """
    torch.manual_seed(int(np.random.SeedSequence([seed, step, place]).generate_state(1)[0]))
