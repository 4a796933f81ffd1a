"""Processes that share the frozen layers: against one that holds all, and what each holds."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from torch.distributed.fsdp._fully_shard._fsdp_param import FSDPParam

from llmcausal.model.placement import Nf4Linear
from llmcausal.train.callback import Callback, FitContext, Record

HELD = "memory_held_bytes"


class HeldBytes(Callback):
    """Adds to each record what the process holds of packed weights and of their scales."""

    def on_step_end(self, context: FitContext, record: Record) -> None:
        """Counts what the layers hold, and what FSDP2 has gathered of them and not let go."""
        held = {}
        for tensor in _packed():
            storage = tensor.untyped_storage()
            held[storage.data_ptr()] = storage.nbytes()
        record[HELD] = sum(held.values())


def _packed() -> Iterator[torch.Tensor]:
    for each in gc.get_objects():
        if type(each) is Linear4bit:
            yield from (each.weight, each.weight.quant_state.absmax)
        elif type(each) is Nf4Linear:
            yield from (each.weight.to_local(), each.absmax.to_local())
        elif type(each) is FSDPParam:
            yield from each.all_gather_outputs


WATCHED = {"callbacks": '["tests.torture.sharding:HeldBytes"]'}


def held_bytes(run_dir: Path) -> int:
    """Returns the most that a run's first process held after any of its steps."""
    lines = (run_dir / "metrics.jsonl").read_text("utf-8").splitlines()
    return max(json.loads(line).get(HELD, 0) for line in lines)


def whole_again(run_dir: Path) -> None:
    """Edits a run's settings so that it goes on in a process that holds all layers."""
    file = run_dir / "config.toml"
    text = file.read_text("utf-8")
    assert text.count("shards = 2") == 1
    file.write_text(text.replace("shards = 2", "shards = 1"), "utf-8")


def compare(
    train: Callable[[int, dict[str, Any]], Path],
    resume: Callable[[Path, int, Callable[[Path], None]], Path],
    compared: Callable[[str, Path, Path], None],
    tell: Callable[[str, str, bool], None],
    difference: Callable[[Path, Path], str],
) -> None:
    """Trains and prints the rows.

    Args:
        train: Trains in so many processes with these settings.
        resume: Goes on with an edited copy of a run from its middle, in so many processes.
        compared: Prints how far the weights of two runs are apart.
        tell: Prints a row, and whether it is right.
        difference: Says in what two runs are not the same bits.
    """
    for name in ("nf4", "none"):
        kept: dict[str, Any] = {"model.quantization": name, "memory.activations": "recompute"}
        # The products of bitsandbytes and torch on either side, not oneDNN's on one of them.
        kept |= {"model.unpack_on_cpu": "false", **WATCHED}
        one, two = train(1, kept), train(2, kept)
        shared = {count: train(count, {**kept, "memory.shards": count}) for count in (2, 3)}
        for count, run_dir in shared.items():
            compared(f"{name}: {count} share the layers, against 1", run_dir, one)
        odd = difference(shared[2], two)
        what = f"{name}: 2 share the layers, against 2 that hold them"
        tell(what, odd or "the same bits", not odd)
        what = f"{name}: 2 share the layers, from the middle on 1, against 1"
        compared(what, resume(shared[2], 1, whole_again), one)
        if name == "nf4":
            share = held_bytes(shared[2]) / held_bytes(one)
            found = f"{share:.3f} of {held_bytes(one):,} bytes"
            tell(f"{name}: packed weights held by one of 2", found, abs(share - 0.5) < 0.01)
