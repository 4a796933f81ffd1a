"""The same run in one, two and four processes over gloo: how far its weights are apart.

`python -m tests.torture.processes` prints the table and exits with 1 if a limit is missed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tests.torture import sharding
from tests.torture.__main__ import make_files
from tests.torture.comparing import WEIGHTS
from tests.torture.comparing import difference as different_bits
from tests.torture.kills import wait_for
from tests.torture.world import HUNG, NAME, Process, World

STEPS = 20
HALF = 10
LIMIT = 1e-6
MOST_SECONDS = 400
"""That a group may take: twenty steps of four processes on two busy cores."""
_SETTINGS: dict[str, Any] = {
    "train.max_steps": STEPS,
    "early_stopping.enabled": "false",
    "train.epochs": 40,
    "train.optimizer": "adamw",  # 8-bit states would round a difference up to a step of theirs
    "train.batch_size": 1,
    "train.accumulation_steps": 4,
    "checkpoint.every_steps": 5,
    "checkpoint.keep": 9,
    "validation.attack_probe": 4,
}


class Group:
    """Processes that train one run together, forked as `--num-processes` would start them."""

    def __init__(self, count: int, start: Callable[[Callable[[], None]], Process]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.processes = [start(_as_one_of(index, count, port)) for index in range(count)]

    def wait(self) -> list[int]:
        """Returns the exit codes."""
        return [process.wait(MOST_SECONDS) for process in self.processes]

    def output(self) -> str:
        """Returns what all of them printed."""
        return "\n".join(process.output() for process in self.processes)


def _as_one_of(index: int, count: int, port: int) -> Callable[[], None]:
    def tell() -> None:
        import torch

        # Read from the environment as torch loads, which was before the fork.
        torch.set_num_threads(1)
        os.environ |= {
            "WORLD_SIZE": str(count),
            "RANK": str(index),
            "LOCAL_RANK": str(index),
            "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
        }

    return tell


def trained_by(world: World, count: int, settings: Mapping[str, Any] | None = None) -> Path:
    """Trains a fresh run in so many processes and returns its directory."""
    place = world.new_place()
    settings = {**_SETTINGS, **(settings or {})}
    _finish(Group(count, lambda tell: world.train(place, tell, settings)))
    return place / NAME


def resumed_by(
    world: World, run_dir: Path, count: int, edit: Callable[[Path], None] | None = None
) -> Path:
    """Goes on with a copy of a run from its middle, in so many processes; returns the copy."""
    copy = world.new_place() / NAME
    shutil.copytree(run_dir, copy)
    if edit is not None:
        edit(copy)
    _finish(Group(count, lambda tell: world.resume(copy / f"checkpoint-{HALF}", tell)))
    return copy


def stopped_and_resumed(world: World, count: int) -> tuple[list[int], Path]:
    """Ends a run by SIGTERM to its last process, goes on; returns the codes and the directory."""
    from llmcausal.train.checkpoint import checkpoints

    place = world.new_place()
    group = Group(count, lambda tell: world.train(place, tell, _SETTINGS))
    wait_for(place / NAME / "checkpoint-5")
    group.processes[-1].send(signal.SIGTERM)
    codes = group.wait()
    stopped_at = max(step for step, _ in checkpoints(place / NAME))
    _finish(Group(count, lambda tell: world.resume(place / NAME, tell)))
    if stopped_at % _SETTINGS["checkpoint.every_steps"]:  # the stop's own, kept like the others
        shutil.rmtree(place / NAME / f"checkpoint-{stopped_at}")
    return codes, place / NAME


def evaluated_by(world: World, run_dir: Path, count: int) -> dict[str, Any]:
    """Evaluates the end of a run in so many processes and returns what came out, but the date."""
    out = world.new_place()
    checkpoint = ("--checkpoint", str(run_dir / f"checkpoint-{STEPS}"), "--max-samples", "12")
    command = ("eval", *checkpoint, "--out", str(out))
    _finish(Group(count, lambda tell: world.fork(command, tell)))
    result = json.loads((out / "results.json").read_text("utf-8"))
    generations = (out / "generations.jsonl").read_text("utf-8")
    return {"tuned": result["tuned"], "base": result["base"], "generations": generations}


def _finish(group: Group) -> None:
    codes = group.wait()
    if any(codes):
        raise SystemExit(f"processes ended with {codes} ({HUNG}: too long):\n{group.output()}")


def apart(run_dir: Path, other: Path) -> tuple[float, float]:
    """Returns the relative difference at the last step: of all weights, of the worst tensor."""
    from safetensors.torch import load_file

    worst = squares = total = 0.0
    for name in WEIGHTS:
        ours, theirs = (load_file(each / f"checkpoint-{STEPS}" / name) for each in (run_dir, other))
        assert ours.keys() == theirs.keys()
        for key, tensor in theirs.items():
            gap, size = float((ours[key] - tensor).norm()), float(tensor.norm())
            worst = max(worst, gap / size)
            squares, total = squares + gap**2, total + size**2
    return (squares / total) ** 0.5, worst


def main() -> int:
    """Trains, compares and prints."""
    import llmcausal.assembly.training  # imported once, before the processes are forked
    from llmcausal.assembly.run_directory import environment

    assert llmcausal.assembly.training
    missed = 0

    def tell(what: str, found: str, right: bool) -> None:
        nonlocal missed
        missed += not right
        print(f"{what:<60} {found}{'' if right else '   MISSED'}", flush=True)

    def compared(what: str, run_dir: Path, other: Path) -> None:
        whole, worst = apart(run_dir, other)
        tell(what, f"{whole:.1e} (worst tensor {worst:.1e})", whole <= LIMIT)

    with tempfile.TemporaryDirectory(prefix="processes-") as folder:
        world = World(Path(folder))
        world.write_files(make_files)
        by = {count: trained_by(world, count) for count in (1, 2, 4)}
        for count in (2, 4):
            compared(f"{count} processes against 1, {STEPS} steps", by[count], by[1])
        for before, after in ((2, 1), (1, 2), (4, 2)):
            what = f"{before} process(es), from step {HALF} on {after}, against 1"
            compared(what, resumed_by(world, by[before], after), by[1])
        equal = evaluated_by(world, by[1], 2) == evaluated_by(world, by[1], 1)
        tell("evaluated by 2, against 1", "the same answers" if equal else "differs", equal)
        codes, again = stopped_and_resumed(world, 2)
        told = codes == [128 + signal.SIGTERM] * 2
        tell("2 processes, SIGTERM to the second: exit codes", str(codes), told)
        odd = different_bits(again, by[2], STEPS)
        tell("the same resumed by 2, against 2 undisturbed", odd or "the same bits", not odd)
        sharding.compare(
            partial(trained_by, world),
            partial(resumed_by, world),
            compared,
            tell,
            lambda one, other: different_bits(one, other, STEPS),
        )
    facts = environment()
    print(f"{facts['date']}, {facts['processor']}, torch {facts['packages']['torch']}")
    return int(bool(missed))


if __name__ == "__main__":
    raise SystemExit(main())
