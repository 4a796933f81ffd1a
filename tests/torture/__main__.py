"""Tortures tiny runs and prints what was tried and what was lost.

    python -m tests.torture [--precision bf16] [--kills 200] [--others 3] [--seed N]
        [--out FILE.json]

Every disturbed run is resumed and compared with an undisturbed one: weights, optimizer, random
states, `best/`, every row of metrics.jsonl, and the files that are left. Faults that need a small
disk are left out, by name, where this process may not mount one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.torture.faults import FAULTS, NEED_MOUNT, may_mount
from tests.torture.kills import counting_file_events, read_count
from tests.torture.world import NAME, World

KILLS = ("SIGKILL ahead of a file operation", "SIGKILL at any time")


def make_files(model: Path, data: Path) -> None:
    """Writes a tiny random Llama and 20 short built-in triplets."""
    from llmcausal.data.formats.jsonl import write_triplets
    from tests.tiny import make_llama, make_tokenizer, short_triplets

    tokenizer = make_tokenizer()
    sizes = {"hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 2048}
    make_llama(tokenizer, **sizes).save_pretrained(model)
    tokenizer.save_pretrained(model)
    write_triplets(data, short_triplets())


def prepared(folder: Path, precision: str) -> World:
    """Makes the world: its files, the undisturbed run, and how long and busy that is."""
    import llmcausal.assembly.training  # imported once, before the processes are forked

    assert llmcausal.assembly.training
    world = World(folder, precision)
    world.prepare(make_files)
    again, counter = world.new_place(), folder / "events"
    if world.train(again, counting_file_events(again / NAME, counter)).wait():
        raise SystemExit("the counted run failed")
    world.file_events = read_count(counter)
    times = [(world.straight / name).stat().st_mtime for name in ("config.toml", "metrics.jsonl")]
    world.seconds_of_steps = times[1] - times[0]
    return world


def torture(world: World, kills: int, others: int, seed: int) -> list[dict[str, Any]]:
    """Tries every fault; prints a line a kind. Half of the kills are of each sort."""
    lines = []
    for name, fault in FAULTS.items():
        if name in NEED_MOUNT and not may_mount():
            print(f"{name:36} left out: this process may not mount a disk", flush=True)
            continue
        trials = (kills + 1) // 2 if name in KILLS else others
        started, outcomes = time.monotonic(), []
        for number in range(trials):
            outcomes.append(fault(world, random.Random(f"{seed}:{name}:{number}")))
            clear(world.folder)
        lines.append({
            "fault": name, "tried": trials,
            "refused": sum(outcome.refused for outcome in outcomes),
            "most_steps_lost": max(outcome.lost_steps for outcome in outcomes),
            "wrong": [outcome.wrong for outcome in outcomes if outcome.wrong],
            "seconds": round(time.monotonic() - started, 1),
        })  # fmt: skip
        print(line_of(lines[-1]), flush=True)
        for wrong in lines[-1]["wrong"][:3]:
            print(f"    {wrong}")
    return lines


def clear(folder: Path) -> None:
    """Deletes what a trial left."""
    for path in folder.glob("disturbed-*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob("log-*"):
        path.unlink()


def line_of(line: dict[str, Any]) -> str:
    """Formats one kind of fault."""
    return (f"{line['fault']:36}{line['tried']:>6}{line['refused']:>9}"
            f"{line['most_steps_lost']:>12}{len(line['wrong']):>7}")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs everything; 1 if something was not as promised."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--others", type=int, default=3, help="trials of every other fault")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["HF_HUB_OFFLINE"] = "1"
    from llmcausal.assembly.run_directory import environment

    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        world = prepared(Path(folder), given.precision)
        print(f"seed {given.seed}, {given.precision}; a run has {world.file_events} operations on "
              f"files and takes {world.seconds:.1f} s\n"
              f"{'fault':36}{'tried':>6}{'refused':>9}{'steps lost':>12}{'wrong':>7}")  # fmt: skip
        lines = torture(world, given.kills, given.others, given.seed)
    tried = sum(line["tried"] for line in lines)
    wrong = sum(len(line["wrong"]) for line in lines)
    facts = environment()
    print(f"{tried} trials of {len(lines)} kinds of fault, {wrong} not as promised; "
          f"{facts['date']}, {facts['processor']}, torch {facts['packages']['torch']}")  # fmt: skip
    if given.out:
        report = {
            "seed": given.seed,
            "precision": given.precision,
            "faults": lines,
            "environment": facts,
        }
        given.out.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
