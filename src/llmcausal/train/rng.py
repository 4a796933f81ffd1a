"""All random states of a run; a resumed run restores them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor


def rng_state() -> dict[str, Any]:
    """Returns all states as plain values and tensors, which `weights_only` can load."""
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (str(name), [*map(int, keys)], int(position), int(has_gauss), float(cached)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_rng(state: dict[str, Any]) -> None:
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.asarray(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        # The saved run may have had more GPUs.
        for index, saved in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(saved, index)


def device_rng(device: torch.device) -> list[Tensor]:
    """Returns torch's random states of the host and of a device."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def restore_device_rng(device: torch.device, states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)


def seed_everything(seed: int) -> None:
    """Seeds all generators, and disables cuDNN's attention, which adds in no fixed order."""
    torch.backends.cuda.enable_cudnn_sdp(False)  # other kernels: `tree_attention.in_fixed_order`
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def seed_micro_batch(seed: int, step: int, place: int) -> None:
    """Seeds torch for the micro-batch at a place of a step.

    Its draws, such as dropout's, then depend on neither the process nor earlier micro-batches.
    """
    torch.manual_seed(int(np.random.SeedSequence([seed, step, place]).generate_state(1)[0]))
