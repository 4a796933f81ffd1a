"""Predicts a step's memory without weights and without the device."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context, parent_process

from llmcausal.config import RunConfig
from llmcausal.memory.budget import Device
from llmcausal.memory.prediction import Prediction, Workload


def predict(
    config: RunConfig,
    workload: Workload,
    *,
    device: Device,
    strategy: str = "custom",
    progress: Callable[[str], None] | None = None,
) -> Prediction:
    """Predicts the peak of one step: runs the production step on a fake model.

    A deep model of equal layers is run with seven; what the fourth did is repeated in the trace.

    Args:
        config: Settings; `config.memory` says how the step is run.
        workload: The micro-batch.
        device: `cuda` is simulated; `cpu` predicts real runs without `model.unpack_on_cpu`.
        strategy: Name to report; `naive` is the usual recipe, whatever `config.memory` says.
        progress: Told what is being done.

    Raises:
        ModelError: If the architecture is unknown.
        ConfigError: If the settings do not fit it.
    """
    if progress:
        tokens = workload.member_tokens
        progress(f"predicting {strategy}: {config.model.name}, {tokens} tokens per member")
    if device == "cuda":
        return _child().submit(_run, config, workload, device, strategy).result()
    return _run(config, workload, device, strategy)


def end_child() -> None:
    """Ends the process that simulates CUDA, if there is one: it holds half a GiB of the host."""
    if _child.cache_info().currsize:
        _child().shutdown()
        _child.cache_clear()


@cache
def _child() -> ProcessPoolExecutor:
    """Starts the process that simulates CUDA, once.

    The simulated device must be known to torch before the first backward pass, and torch then
    takes it for the machine's accelerator: whatever pins memory or saves random states would no
    longer find a real GPU. So it is kept out of a process that trains.
    """
    return ProcessPoolExecutor(1, get_context("spawn"), initializer=_begin)


def _begin() -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process if the parent was killed and could not."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(config: RunConfig, workload: Workload, device: Device, strategy: str) -> Prediction:
    from llmcausal.memory.symbolic_run import run

    return run(config, workload, device, strategy)
